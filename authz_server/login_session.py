"""What follows every proved login, however it was proved: the person, their session, the next step.

In this order: the provider is not one that must be watched and cannot be; the groups are its own;
the person has a `sub`; neither block nor epoch refuses them; the provider reported nothing of them
or of the session there since it was asked; a new session with a new cookie (session fixation),
ending where its claims end unless the provider can be asked again; the event; then whatever the
request needs next, consent first.
"""

from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from audit_log.event import EventType, Outcome, PrincipalKind
from authz_server.audit_events import record, record_refusal
from authz_server.authorize_flow import go_on
from authz_server.browser import read_cookie, set_cookie
from authz_server.errors import error_page
from authz_server.parts import Parts
from authz_server.store.interactions import Interaction
from authz_server.store.sessions import SESSION_LIFETIME_SECONDS, NewSession
from authz_server.store.upstream_sessions import UpstreamSession
from idp_connectors.evidence import Person
from idp_connectors.workforce.login import UpstreamLogin
from registry.blocks import BlockKind, Subject
from token_exchange.claims import Refusal
from token_exchange.identifiers import new_id

BLOCKED_PERSON: Final = Refusal(
    "access_denied",
    "You cannot log in now. Start again from where you were sent here, or ask an administrator.",
    "the person is blocked, or an epoch is not over or later than the request",
    "login.blocked",
)
OUTDATED: Final = Refusal(
    BLOCKED_PERSON.code,
    BLOCKED_PERSON.description,
    "the provider reported a change of person, session or everybody since it was asked",
    "login.outdated",
)
UNWATCHED: Final = Refusal(
    "temporarily_unavailable",
    "Nobody can log in this way now: the identity provider does not answer. Try again later.",
    "what changes at the provider could not be read for longer than declared",
    "login.unwatched",
)


async def start_session(
    parts: Parts,
    request: Request,
    interaction: Interaction,
    login: UpstreamLogin,
    path: str,
    *,
    asked_at: int,
) -> Response:
    """Begin the session of a person whose provider was just believed, and go on.

    INVARIANT: the session is as old as the question to the provider (`asked_at`, NumericDate
    seconds), not as its answer: what changed there in between is newer than the session.
    """
    now, person = asked_at, _own_groups(login.person)
    if person.identity_provider in parts.unwatched:
        await record_refusal(
            parts, EventType.LOGIN_FAILED, UNWATCHED, **parties_of(interaction, path)
        )
        return error_page(UNWATCHED, heading="Login refused")
    known = await parts.persons.remember(person, now)
    started: NewSession | Refusal = BLOCKED_PERSON
    if not _is_cut_off(parts, known.sub, interaction, now):
        replacing = read_cookie(request, parts.issuer, "session")
        started = await _started(parts, known.sub, replace(login, person=person), now, replacing)
    if isinstance(started, Refusal):
        await record_refusal(
            parts,
            EventType.LOGIN_FAILED,
            started,
            **parties_of(interaction, path),
            user=known.sub,
            user_name=person.name,
        )
        return error_page(started, heading="Login refused")
    session = started.session
    await record(
        parts,
        EventType.LOGIN_SUCCEEDED,
        Outcome.SUCCEEDED,
        **parties_of(interaction, path),
        principal_kind=PrincipalKind.PERSON,
        user=session.sub,
        user_name=person.name,
        session=session.sid,
    )
    await parts.interactions.logged_in(interaction.interaction_id, session.sid)
    here = replace(interaction, login_sid=session.sid)
    response = await go_on(parts, here, session, proved_here=True)
    lasts = session.expires_at - now
    set_cookie(response, parts.issuer, "session", started.cookie_value, lasts)
    return response


def _is_cut_off(parts: Parts, sub: str, interaction: Interaction, asked_at: int) -> bool:
    """Blocked, or an epoch refuses it: a login under way is as old as its request."""
    blocks = parts.live.blocks
    person, claims = Subject(BlockKind.SUBJECT, sub), Subject(BlockKind.CLAIMS, sub)
    # What changed about the person before the provider was asked is in its answer.
    return (
        blocks.first_hit((person,), min(interaction.created_at, asked_at)) is not None
        or blocks.first_hit((claims,), asked_at) is not None
    )


def parties_of(interaction: Interaction, path: str) -> dict[str, Any]:
    """The fields of an event about a login."""
    asked = interaction.request
    return {
        "client_id": asked.client_id,
        "agent": asked.agent,
        "target_service": asked.server,
        "request_path": path,
    }


def _own_groups(person: Person) -> Person:
    # INVARIANT: no provider asserts another's groups, whatever its connector says.
    prefix = f"{person.identity_provider}/"
    own = tuple(group for group in person.groups if group.startswith(prefix))
    return replace(person, groups=own)


async def _started(
    parts: Parts, sub: str, login: UpstreamLogin, now: int, replacing: str | None
) -> NewSession | Refusal:
    sid = new_id("ses", parts.random)
    claims_until = now + min(login.claims_seconds, SESSION_LIFETIME_SECONDS)
    sealed = None if login.upstream is None else parts.session_seal.seal(sid, login.upstream)
    if login.upstream_session is not None:
        origin = UpstreamSession(sid, sub, login.person.identity_provider, login.upstream_session)
        await parts.upstream_sessions.remember(origin, now)
    # INVARIANT: after person and session were noted, or a change in between would be missed.
    if await parts.reported_changes.concern(
        login.person.identity_provider,
        now,
        subject=login.person.subject,
        upstream_session=login.upstream_session,
    ):
        return OUTDATED
    return await parts.sessions.start(
        sid,
        sub,
        login.person,
        now,
        # Nobody can be asked again: what depends on the session ends when its claims are too old.
        ends=claims_until if sealed is None else now + SESSION_LIFETIME_SECONDS,
        claims_until=claims_until,
        replacing=replacing,
        sealed_upstream=sealed,
    )
