"""From an accepted authorization request to a code: the order nobody can step out of.

One function, `go_on`, is called by /authorize, by the login and by the consent page, and decides
the next step from what is proved now, never from where the browser says it is:

1. somebody is logged in, recently enough, in a session that no block or epoch refuses;
2. client and agent still exist, are not blocked, and some of the tools are still to be had;
3. the person is in a group the agent acts for;
4. a stored consent of this person covers the request, else they are asked.

Only then is a code made (`authorize_answers`). `prompt=none` turns every question into an error for
the client. A program that nobody vouches for and that gets its answer on loopback is asked about
each time, and so is the person's own command line: any local program could take its place there.
"""

from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from authz_server.authorize_answers import refuse_client, refuse_person, send_code
from authz_server.browser import form_token, is_shared_host, read_cookie
from authz_server.errors import NO_STORE
from authz_server.parts import Parts, now_of
from authz_server.redirect_uris import is_loopback_redirect
from authz_server.requested_access import (
    Grantable,
    acts_for,
    available_tools,
    requested_endpoint,
    shown_tools,
)
from authz_server.standing_consents import standing_consents
from authz_server.store.consents import Consent
from authz_server.store.interactions import AuthorizationRequest, Interaction
from authz_server.store.sessions import Session
from idp_connectors.evidence import Person
from idp_connectors.workforce.vouching import is_vouched_for
from registry.blocks import BlockKind, Subject
from token_exchange.claims import Refusal

LOGIN_REQUIRED: Final = Refusal(
    "login_required", "The person must log in.", "prompt=none", "authorize.silent_login"
)
CONSENT_REQUIRED: Final = Refusal(
    "consent_required", "The person must be asked.", "prompt=none", "authorize.silent_consent"
)
GONE: Final = Refusal(
    "access_denied",
    "What was asked for is no longer available.",
    "client, agent, resource or every tool vanished after the request was accepted",
    "authorize.gone",
)
BLOCKED: Final = Refusal(
    "access_denied", "This agent or program is blocked.", "blocked", "authorize.blocked"
)
NOT_IN_GROUP: Final = Refusal(
    "access_denied",
    "This agent does not act for you: you are in none of the groups it is allowed to act for.",
    "no group of the person is in acts_for",
    "authorize.not_in_group",
)


async def find_interaction(
    parts: Parts, request: Request, unverified_interaction_id: str | None
) -> Interaction | None:
    """The open request of this id, if this browser brought it."""
    secret = read_cookie(request, parts.issuer, "browser")
    if secret is None or unverified_interaction_id is None:
        return None
    return await parts.interactions.find(unverified_interaction_id, secret, now_of(parts))


async def living_session(parts: Parts, request: Request, *, stale: bool = False) -> Session | None:
    """Who is logged in in this browser, unless a block, an epoch or another issuer ended it.

    `stale`: even if the identity provider must be asked again first.
    """
    cookie_value = read_cookie(request, parts.issuer, "session")
    if cookie_value is None:
        return None
    session = await parts.sessions.find(cookie_value, now_of(parts))
    if session is None:
        return None
    if not is_provider_same(parts, session.person):
        return None
    subjects = (
        Subject(BlockKind.SUBJECT, session.sub),
        Subject(BlockKind.CLAIMS, session.sub),
        Subject(BlockKind.SESSION, session.sid),
    )
    hit = parts.live.blocks.first_hit(subjects, session.created_at)
    return session if hit is None and (stale or now_of(parts) < session.claims_until) else None


def is_provider_same(parts: Parts, person: Person) -> bool:
    """Whether the provider that vouched for a person is declared still, with the same issuer."""
    return is_vouched_for(
        parts.live.snapshot.identity_providers,
        parts.issuer,
        name=person.identity_provider,
        issuer=person.issuer,
    )


def answers_login(parts: Parts, interaction: Interaction, session: Session) -> bool:
    """Whether this session's login is fresh enough for the request (OpenID Core §3.1.2.1).

    INVARIANT: the admin audience, and everything on a host shared with other programs, takes a
    login made for this very request: a session cookie that got lost opens nothing.
    """
    request = interaction.request
    must_be_here = request.fresh_login or request.agent is None or is_shared_host(parts.issuer)
    if must_be_here and interaction.login_sid != session.sid:
        return False
    return session.person.auth_time >= request.login_not_before


def grantable(parts: Parts, interaction: Interaction, session: Session) -> Grantable | Refusal:
    """Steps 2 and 3: what this person may let this client have, as things are now.

    INVARIANT: a request is as old as its beginning: one from before a kill yields nothing, however
    young the login and the consent within it are.
    """
    snapshot, request, begun_at = parts.live.snapshot, interaction.request, interaction.created_at
    subjects = [
        Subject(BlockKind.CLIENT, request.client_id),
        Subject(BlockKind.SUBJECT, session.sub),
    ]
    if request.agent is None:
        client = snapshot.clients.get(request.client_id)
        if client is None or client.kind != "cli":
            return GONE
        hit = parts.live.blocks.first_hit(subjects, begun_at)
        return Grantable(None, ()) if hit is None else BLOCKED
    endpoint = requested_endpoint(snapshot, request)
    if endpoint is None:
        return GONE
    entry = endpoint.agent.entry
    subjects.append(Subject(BlockKind.AGENT, entry.name))
    subjects.extend(Subject(BlockKind.AGENT_GROUP, group) for group in entry.groups)
    if parts.live.blocks.first_hit(subjects, begun_at) is not None:
        return BLOCKED
    if not acts_for(endpoint.agent, session.person):
        return NOT_IN_GROUP
    available = available_tools(endpoint)
    tools = tuple(tool for tool in request.tools if tool in available)
    return Grantable(endpoint, tools) if tools else GONE


async def go_on(
    parts: Parts, interaction: Interaction, session: Session | None, *, proved_here: bool = False
) -> Response:
    """The next step of this request.

    `proved_here`: the person proved who they are in the very HTTP request this answers.
    INVARIANT: on a host shared with other programs nothing goes on without; cookies prove nothing
    there, and only the browser that is answered here learns the token of the consent form.
    """
    request = interaction.request
    known = proved_here or not is_shared_host(parts.issuer)
    if session is None or not known or not answers_login(parts, interaction, session):
        if request.silent:
            return await refuse_client(parts, interaction, LOGIN_REQUIRED)
        return step(parts, "login", interaction)
    granted = grantable(parts, interaction, session)
    if isinstance(granted, Refusal):
        return await refuse_person(parts, interaction, session, granted)
    consent = None
    if not (request.ask_consent or _is_anybody(request, granted)):
        consent = await stored_consent(parts, request, session, granted)
    if consent is not None:
        return await send_code(parts, interaction, session, granted, consent)
    if request.silent:
        return await refuse_client(parts, interaction, CONSENT_REQUIRED, session)
    return step(parts, "consent", interaction, form=consent_token(parts, interaction, session))


def _is_anybody(request: AuthorizationRequest, granted: Grantable) -> bool:
    """Whether any program on the person's computer could be the one that asks (RFC 8252 §8.6)."""
    is_unproved = granted.endpoint is not None and granted.endpoint.unattested is not None
    return is_unproved and is_loopback_redirect(request.redirect_uri)


def consent_token(parts: Parts, interaction: Interaction, session: Session) -> str:
    """The token of the consent form of this request, in this login session."""
    key = parts.keys.form_key()
    return form_token(key, "consent", interaction.interaction_id, session.sid)


def step(parts: Parts, page: str, interaction: Interaction, **more: str) -> Response:
    """Send the browser to one of our pages."""
    query = urlencode({"interaction": interaction.interaction_id} | more)
    return RedirectResponse(
        f"{parts.issuer}/oauth/{page}?{query}", status_code=HTTPStatus.SEE_OTHER, headers=NO_STORE
    )


async def stored_consent(
    parts: Parts, request: AuthorizationRequest, session: Session, granted: Grantable
) -> Consent | None:
    """A consent this person gave that covers the request and was not withdrawn."""
    if granted.endpoint is None:
        return None
    agent, server = granted.endpoint.agent.entry.name, granted.endpoint.server.name
    shown = shown_tools(granted.endpoint, granted.tools)
    standing = await standing_consents(
        parts.consents, parts.live, sub=session.sub, agent=agent, server=server, now=now_of(parts)
    )
    return next((each for each in standing if each.covers(shown, request.scope)), None)
