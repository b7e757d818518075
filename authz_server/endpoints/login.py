"""`/oauth/login`: a person proves who they are to a declared identity provider.

In this order: the request must be open in this browser, the form must be ours, the provider
declared, the password right, and the person not blocked. A login makes a new session with a new
cookie (session fixation) and ends the one before it. Every failure of name or password looks the
same, and is told from a lockout only by "wait", which the provider says for unknown names too.
"""

from dataclasses import replace
from http import HTTPStatus
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit_log.event import EventType
from authz_server.audit_events import record_refusal
from authz_server.authorize_answers import NOT_OPEN_HERE
from authz_server.authorize_flow import (
    answers_login,
    find_interaction,
    go_on,
    living_session,
)
from authz_server.browser import form_token, is_forged, is_shared_host, read_cookie
from authz_server.endpoints.page_endpoint import page_endpoint
from authz_server.errors import error_page
from authz_server.login_form import login_form
from authz_server.login_session import parties_of, start_session
from authz_server.network import network_of
from authz_server.parameters import Parameters, form_of, parse_parameters
from authz_server.parts import Parts, now_of
from authz_server.revalidation import renewed_session
from authz_server.store.interactions import Interaction
from authz_server.store.sessions import SESSION_LIFETIME_SECONDS
from idp_connectors.evidence import Person
from idp_connectors.workforce.login import (
    LoginFailure,
    LoginFailureCode,
    PersonLogin,
    UpstreamLogin,
)
from token_exchange.claims import Refusal

MAXIMUM_USERNAME: Final = 256
MAXIMUM_PASSWORD: Final = 1024  # longer ones are only work for the hash
LOGIN_WAIT_SECONDS: Final = 15.0

FORGED: Final = Refusal(
    "invalid_request",
    "This form was not sent by this page. Go back, reload and try again.",
    "form token, Origin or Sec-Fetch-Site",
    "login.forged",
)
WRONG: Final = LoginFailure(
    LoginFailureCode.INVALID_CREDENTIALS,
    "Username or password is wrong.",
    "unknown provider, or input that no account can have",
)
NO_PLACE: Final = LoginFailure(
    LoginFailureCode.BUSY,
    "Too many people are logging in. Try again in a moment.",
    "no place to wait: too many logins of this request, this address or at all",
    retry_after_seconds=5,
)
PATH: Final = "/oauth/login"


def routes(parts: Parts) -> list[Route]:
    """The login page."""
    return [Route("/oauth/login", page_endpoint(show_or_answer, parts), methods=["GET", "POST"])]


async def show_or_answer(parts: Parts, request: Request) -> Response:
    """GET shows the page, POST answers it; one route, so that a 405 names both."""
    return await (answer if request.method == "POST" else show)(parts, request)


async def show(parts: Parts, request: Request) -> Response:
    """The form, or the next step when the person is logged in already."""
    parameters = parse_parameters(request.scope["query_string"])
    if isinstance(parameters, Refusal):
        return await _refuse(parts, parameters)
    interaction = await find_interaction(parts, request, parameters.one("interaction"))
    if interaction is None:
        return await _refuse(parts, NOT_OPEN_HERE)
    session = await living_session(parts, request) or await renewed_session(parts, request)
    is_known = session is not None and answers_login(parts, interaction, session)
    if is_known and not is_shared_host(parts.issuer):
        return await go_on(parts, interaction, session)
    return login_form(parts, request, interaction)


async def answer(parts: Parts, request: Request) -> Response:
    """Judge one submitted form."""
    form = await form_of(request)
    if isinstance(form, Refusal):
        return await _refuse(parts, form)
    interaction = await find_interaction(parts, request, form.one("interaction"))
    if interaction is None:
        return await _refuse(parts, NOT_OPEN_HERE)
    secret = read_cookie(request, parts.issuer, "browser") or ""
    expected = form_token(parts.keys.form_key(), "login", interaction.interaction_id, secret)
    if is_forged(request, form.one("csrf"), expected, parts.issuer) or any(form.repeated()):
        return await _refuse(parts, FORGED, interaction)
    asked_at = now_of(parts)
    age_seconds = asked_at - interaction.created_at
    with parts.login_places.place(
        interaction.interaction_id, network_of(request), age_seconds
    ) as has_place:
        proved = await _authenticate(parts, form) if has_place else NO_PLACE
    if isinstance(proved, LoginFailure):
        return await _failed(parts, request, interaction, form, proved)
    login = UpstreamLogin(proved, None, SESSION_LIFETIME_SECONDS)
    return await start_session(parts, request, interaction, login, PATH, asked_at=asked_at)


async def _authenticate(parts: Parts, form: Parameters) -> Person | LoginFailure:
    name = form.one("identity_provider") or ""
    username, password = form.one("username") or "", form.one("password") or ""
    login = parts.person_logins().get(name)
    if (
        not isinstance(login, PersonLogin)
        or len(username) > MAXIMUM_USERNAME
        or len(password) > MAXIMUM_PASSWORD
    ):
        return WRONG
    try:
        with anyio.fail_after(LOGIN_WAIT_SECONDS):
            person = await login.authenticate(username, password, now_of(parts))
    except TimeoutError:
        return LoginFailure(
            LoginFailureCode.BUSY, "The login took too long. Try again.", "provider timed out"
        )
    if isinstance(person, LoginFailure):
        return person
    if person.identity_provider != name:
        return replace(WRONG, detail="the provider answered for another provider")
    return person


async def _failed(
    parts: Parts,
    request: Request,
    interaction: Interaction,
    form: Parameters,
    failure: LoginFailure,
) -> Response:
    # A password that was checked cost a hash, and after a few the name is locked. Such
    # failures are what an auditor looks for: their budget is not one that strangers can use up
    # by failures that cost nothing.
    was_checked = failure.code is LoginFailureCode.INVALID_CREDENTIALS and failure is not WRONG
    provider = f"IdentityProvider/{form.one('identity_provider')}" if was_checked else None
    refusal = Refusal(failure.code, failure.description, failure.detail, f"login.{failure.code}")
    await record_refusal(
        parts,
        EventType.LOGIN_FAILED,
        refusal,
        proved=provider,
        **parties_of(interaction, PATH),
    )
    username = (form.one("username") or "")[:MAXIMUM_USERNAME]
    response = login_form(parts, request, interaction, username=username, failure=failure)
    if failure.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(failure.retry_after_seconds)
    return response


async def _refuse(
    parts: Parts, refusal: Refusal, interaction: Interaction | None = None
) -> Response:
    fields = {} if interaction is None else parties_of(interaction, PATH)
    await record_refusal(parts, EventType.LOGIN_FAILED, refusal, **fields)
    status = HTTPStatus.FORBIDDEN if refusal is FORGED else None
    return error_page(refusal, status=status, heading="This login cannot go on")
