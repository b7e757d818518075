"""`/oauth/login/{provider}` and `/oauth/callback/{provider}`: a login at another site, and back.

There: the request must be open in this browser and the provider declared; its `state` is stored
for this request, browser and provider, ten minutes at most. Back, in this order:

1. the parameters are read, none twice;
2. `state` is one this browser started at this very provider (login CSRF, mix-up), and the request
   it belongs to is still open;
3. the state is used up: of parallel callbacks one goes on;
4. the provider is still who the login was begun at: declared anew with another issuer or client,
   it gets neither code nor verifier;
5. the provider's connector judges the rest: `iss`, error or code, tokens;
6. the person's session begins as after any login (`login_session`), and our own consent follows.

A callback that belongs to nothing here gets a page and leads nowhere: nothing in it is ever a
place to redirect to. What the provider refused or got wrong is said on the login page, where the
person can go on.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from audit_log.event import EventType
from authz_server.audit_events import record_refusal
from authz_server.authorize_answers import NOT_OPEN_HERE
from authz_server.authorize_flow import find_interaction
from authz_server.browser import clear_cookie, is_shared_host, read_cookie
from authz_server.endpoints.page_endpoint import page_endpoint
from authz_server.errors import NO_STORE, error_page
from authz_server.login_form import login_form
from authz_server.login_session import parties_of, start_session
from authz_server.parameters import parse_parameters
from authz_server.parts import Parts, now_of
from authz_server.store.digests import new_secret
from authz_server.store.interactions import Interaction
from authz_server.store.upstream_logins import registration_of
from authz_server.upstream_login import login_attempt
from idp_connectors.workforce.login import (
    LoginAttempt,
    LoginFailure,
    LoginFailureCode,
    RedirectLogin,
    UpstreamLogin,
)
from token_exchange.claims import Refusal

START_PATH: Final = "/oauth/login"
CALLBACK_PATH: Final = "/oauth/callback"
UPSTREAM_WAIT_SECONDS: Final = 20.0  # metadata, keys, token and userinfo, each with its own limit
HEADING: Final = "This login cannot go on"

NOT_DECLARED: Final = Refusal(
    "invalid_request",
    "There is no such way to log in. Go back and choose another.",
    "no redirecting identity provider of this name",
    "login.no_such_provider",
)
REPEATED: Final = Refusal(
    "invalid_request", "The answer cannot be read.", "a parameter is repeated", "login.repeated"
)
NOT_STARTED_HERE: Final = Refusal(
    "invalid_request",
    "This login is not open in this browser: it was finished, it is too old, or it was started "
    "elsewhere. Start again from the program that sent you here.",
    "state unknown, used, expired, of another browser or of another provider",
    "login.state",
)


def routes(parts: Parts) -> list[Route]:
    """Where the buttons of the login page lead, and where providers send the browser back."""
    both = [
        Route(f"{START_PATH}/{{provider}}", page_endpoint(begin, parts), methods=["GET"]),
        Route(f"{CALLBACK_PATH}/{{provider}}", page_endpoint(finish, parts), methods=["GET"]),
    ]
    for route in both:
        route.methods = {"GET"}  # a HEAD, which Starlette adds, would use a login up unseen
    return both


async def begin(parts: Parts, request: Request) -> Response:
    """Send the browser to the provider."""
    parameters = parse_parameters(request.scope["query_string"])
    if isinstance(parameters, Refusal):
        return await _refuse(parts, parameters, START_PATH)
    interaction = await find_interaction(parts, request, parameters.one("interaction"))
    browser_secret = read_cookie(request, parts.issuer, "browser")
    if interaction is None or browser_secret is None:
        return await _refuse(parts, NOT_OPEN_HERE, START_PATH)
    name, provider = _provider(parts, request)
    if provider is None:
        return await _refuse(parts, NOT_DECLARED, START_PATH, interaction)
    state, now = new_secret(parts.random), now_of(parts)
    attempt = _attempt_of(parts, name, state, browser_secret, interaction)
    try:
        with anyio.fail_after(UPSTREAM_WAIT_SECONDS):
            there = await provider.begin(attempt, now)
    except TimeoutError:
        there = _TIMED_OUT
    if isinstance(there, LoginFailure):
        return await _failed(parts, request, interaction, name, there)
    registration = registration_of(*provider.registration)
    await parts.upstream_logins.start(
        interaction.interaction_id, name, registration, state, browser_secret, now=now
    )
    response = RedirectResponse(there.url, status_code=HTTPStatus.SEE_OTHER, headers=NO_STORE)
    response.headers["Referrer-Policy"] = "no-referrer"
    if is_shared_host(parts.issuer):  # the provider may be another port of this host
        clear_cookie(response, parts.issuer, "session")
    return response


async def finish(parts: Parts, request: Request) -> Response:
    """Judge what the browser came back with."""
    parameters = parse_parameters(request.scope["query_string"])
    if isinstance(parameters, Refusal):
        return await _refuse(parts, parameters, CALLBACK_PATH)
    if any(parameters.repeated()):  # RFC 6749 §3.1
        return await _refuse(parts, REPEATED, CALLBACK_PATH)
    name, provider = _provider(parts, request)
    if provider is None:
        return await _refuse(parts, NOT_DECLARED, CALLBACK_PATH)
    state = parameters.one("state") or ""
    found = await _attempt(parts, request, name, state)
    if isinstance(found, Refusal):
        return await _refuse(parts, found, CALLBACK_PATH)
    interaction, attempt, registration = found
    response = {each: values[0] for each, values in parameters.values.items()}
    asked_at = now_of(parts)
    login: UpstreamLogin | LoginFailure = _REDECLARED
    if registration == registration_of(*provider.registration):
        login = await _finished(parts, provider, attempt, response)
    if isinstance(login, UpstreamLogin) and login.person.identity_provider != name:
        login = LoginFailure(
            LoginFailureCode.INVALID_RESPONSE, "Log in again.", "answered for another provider"
        )
    if isinstance(login, LoginFailure):
        return await _failed(parts, request, interaction, name, login)
    return await start_session(parts, request, interaction, login, CALLBACK_PATH, asked_at=asked_at)


def _provider(parts: Parts, request: Request) -> tuple[str, RedirectLogin | None]:
    name = str(request.path_params["provider"])
    provider = parts.person_logins().get(name)
    return name, provider if isinstance(provider, RedirectLogin) else None


async def _attempt(
    parts: Parts, request: Request, name: str, unverified_state: str
) -> tuple[Interaction, LoginAttempt, str | None] | Refusal:
    """The attempt this callback belongs to, used up, and the registration it was begun at."""
    browser_secret = read_cookie(request, parts.issuer, "browser")
    if browser_secret is None:
        return NOT_STARTED_HERE
    pending = await parts.upstream_logins.find(
        unverified_state, browser_secret, name, now_of(parts)
    )
    if pending is None:
        return NOT_STARTED_HERE
    interaction = await find_interaction(parts, request, pending.interaction_id)
    if interaction is None:
        return NOT_OPEN_HERE
    # INVARIANT: from here on this state is nobody's; a code is redeemed once at most.
    if not await parts.upstream_logins.use(unverified_state):
        return NOT_STARTED_HERE
    attempt = _attempt_of(parts, name, unverified_state, browser_secret, interaction)
    return interaction, attempt, pending.registration


def _attempt_of(
    parts: Parts, name: str, state: str, browser_secret: str, interaction: Interaction
) -> LoginAttempt:
    return login_attempt(
        interaction,
        key=parts.keys.form_key(),
        issuer=parts.issuer,
        provider=name,
        state=state,
        browser_secret=browser_secret,
    )


async def _finished(
    parts: Parts, provider: RedirectLogin, attempt: LoginAttempt, response: Mapping[str, str]
) -> UpstreamLogin | LoginFailure:
    try:
        with anyio.fail_after(UPSTREAM_WAIT_SECONDS):
            return await provider.finish(attempt, response, now_of(parts))
    except TimeoutError:
        return _TIMED_OUT


async def _failed(
    parts: Parts, request: Request, interaction: Interaction, name: str, failure: LoginFailure
) -> Response:
    refusal = Refusal(failure.code, failure.description, failure.detail, f"login.{failure.code}")
    await record_refusal(
        parts,
        EventType.LOGIN_FAILED,
        refusal,
        **parties_of(interaction, CALLBACK_PATH),
        object_ref=f"IdentityProvider/{name}",
    )
    return login_form(parts, request, interaction, failure=failure)


async def _refuse(
    parts: Parts, refusal: Refusal, path: str, interaction: Interaction | None = None
) -> Response:
    fields = {"request_path": path} if interaction is None else parties_of(interaction, path)
    await record_refusal(parts, EventType.LOGIN_FAILED, refusal, **fields)
    return error_page(refusal, heading=HEADING)


_REDECLARED: Final = LoginFailure(
    LoginFailureCode.INVALID_RESPONSE,
    "The identity provider has changed since this login began. Log in again.",
    "begun at another issuer or as another client than is declared now",
)

_TIMED_OUT: Final = LoginFailure(
    LoginFailureCode.UNAVAILABLE,
    "The identity provider takes too long. Try again.",
    "the provider's connector timed out",
)
