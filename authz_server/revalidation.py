"""Is the person of a session still there, and with which groups? Asked before a token is renewed.

In this order: the session lives; one question at a time per session, over all processes, because a
provider's refresh token may be good for one use; its provider is declared and can be asked; the
answer is of the same person; what changed is kept, sealed. A provider that cannot be reached says
nothing about the person: nothing is renewed and nothing ends. Any other failure ends the session,
for ever.
"""

import asyncio
from dataclasses import replace
from typing import Final

from starlette.requests import Request

from audit_log.event import EventType, Outcome, PrincipalKind
from audit_log.transaction_log import append_in
from authz_server.audit_events import made
from authz_server.authorize_flow import living_session
from authz_server.parts import Parts, now_of
from authz_server.store.sessions import Session
from idp_connectors.evidence import Person
from idp_connectors.workforce.login import (
    LoginFailure,
    LoginFailureCode,
    RedirectLogin,
    Revalidates,
    UpstreamLogin,
)
from registry.blocks import BlockKind, Subject

REVALIDATION_SECONDS: Final = 15.0  # the provider's own deadlines are shorter
CLAIM_SECONDS: Final = 20  # a process that dies while asking holds others up so long
POLL_SECONDS: Final = 0.1

SESSION_OVER: Final = LoginFailure(
    LoginFailureCode.ENDED, "The session has ended. Log in again.", "no living session"
)
NOT_DECLARED: Final = LoginFailure(
    LoginFailureCode.ENDED, "The session has ended. Log in again.", "provider no longer declared"
)
UNREADABLE: Final = LoginFailure(
    LoginFailureCode.ENDED, "The session has ended. Log in again.", "sealed state does not open"
)
TOO_BUSY: Final = LoginFailure(
    LoginFailureCode.UNAVAILABLE, "The identity provider cannot be asked now.", "too many waiting"
)
TOO_SLOW: Final = LoginFailure(
    LoginFailureCode.UNAVAILABLE, "The identity provider cannot be asked now.", "timed out"
)
UNWATCHED: Final = LoginFailure(
    LoginFailureCode.UNAVAILABLE,
    "The identity provider cannot be asked now.",
    "what changes at the provider could not be read for longer than declared",
)
# Nobody can be asked what changed: only a new login tells.
NOT_ASKED: Final = LoginFailure(
    LoginFailureCode.ENDED, "The session has ended. Log in again.", "changed, and cannot be asked"
)
OTHER_PERSON: Final = LoginFailure(
    LoginFailureCode.ENDED, "The session has ended. Log in again.", "it answered for another person"
)


async def revalidated(parts: Parts, sid: str, now: int) -> Session | LoginFailure:
    """The session with what its identity provider says of the person now.

    `UNAVAILABLE` leaves everything as it was. Any other failure has ended the session and is in
    the audit.
    """
    try:
        async with asyncio.timeout(REVALIDATION_SECONDS), parts.revalidations.of(sid) as is_mine:
            return await _asked(parts, sid, now) if is_mine else TOO_BUSY
    except TimeoutError:
        return TOO_SLOW


async def renewed_session(parts: Parts, request: Request) -> Session | None:
    """The session of this browser, asked about again because its claims are too old; else None."""
    session = await living_session(parts, request, stale=True)
    if session is None:
        return None
    renewed = await revalidated(parts, session.sid, now_of(parts))
    return None if isinstance(renewed, LoginFailure) else renewed


async def _asked(parts: Parts, sid: str, now: int) -> Session | LoginFailure:
    if await parts.sessions.find_upstream(sid, now) is None:
        return SESSION_OVER
    # Other processes ask too: a refresh token sent twice would end the login at the provider.
    while not await parts.sessions.claim(sid, now_of(parts), now_of(parts) + CLAIM_SECONDS):
        if await parts.sessions.find_upstream(sid, now) is None:
            return SESSION_OVER
        await asyncio.sleep(POLL_SECONDS)  # the event to wait for is another process's
    found = await parts.sessions.find_upstream(sid, now)  # as whoever asked before us left it
    if found is None:
        return SESSION_OVER
    answer = await _answer(parts, *found, now)
    if isinstance(answer, LoginFailure):
        if answer.code is not LoginFailureCode.UNAVAILABLE:
            return await _end(parts, found[0], answer)
        await parts.sessions.release(sid)
        return answer
    return await _renewed(parts, found[0], answer, now)


async def _answer(
    parts: Parts, session: Session, sealed: bytes | None, now: int
) -> UpstreamLogin | LoginFailure:
    """What the provider says of the person of this session."""
    if session.person.identity_provider in parts.unwatched:
        return UNWATCHED
    provider = parts.person_logins().get(session.person.identity_provider)
    if not isinstance(provider, Revalidates):
        return NOT_DECLARED
    upstream = None if sealed is None else parts.session_seal.open(session.sid, sealed)
    if sealed is not None and upstream is None:
        return UNREADABLE
    if upstream is None and isinstance(provider, RedirectLogin) and _is_outdated(parts, session):
        return NOT_ASKED
    answer = await provider.revalidate(session.person, upstream, now)
    if isinstance(answer, LoginFailure):
        return answer
    if not isinstance(answer, UpstreamLogin):
        answer = UpstreamLogin(answer, upstream, session.claims_until - now)
    return answer if _is_same(session.person, answer.person) else OTHER_PERSON


def _is_outdated(parts: Parts, session: Session) -> bool:
    """Whether something about the person changed since they logged in."""
    claims = (Subject(BlockKind.CLAIMS, session.sub),)
    return parts.live.blocks.first_hit(claims, session.created_at) is not None


async def _renewed(
    parts: Parts, session: Session, login: UpstreamLogin, now: int
) -> Session | LoginFailure:
    prefix = f"{session.person.identity_provider}/"
    own = tuple(group for group in login.person.groups if group.startswith(prefix))
    person = replace(login.person, groups=own)
    claims_until = min(session.expires_at, now + login.claims_seconds)
    sealed = (
        None if login.upstream is None else parts.session_seal.seal(session.sid, login.upstream)
    )
    if not await parts.sessions.renew(session.sid, person, claims_until, sealed):
        return SESSION_OVER
    return replace(session, person=person, claims_until=claims_until)


async def _end(parts: Parts, session: Session, failure: LoginFailure) -> LoginFailure:
    event = made(
        parts,
        EventType.SESSION_ENDED,
        Outcome.REVOKED,
        principal_kind=PrincipalKind.PERSON,
        user=session.sub,
        user_name=session.person.name,
        session=session.sid,
        error_code=failure.code,
        reasons=(f"session.{failure.code}",),
        detail=failure.detail,
    )
    # INVARIANT: end and record are one transaction: neither a death in between nor a full spool
    # leaves one without the other, and a session that somebody else ended is not ended twice.
    now_ms = int(parts.clock() * 1000)
    await parts.sessions.end(
        session.sid, also=lambda connection: append_in(connection, (event,), now_ms)
    )
    return failure


def _is_same(before: Person, after: Person) -> bool:
    return (before.identity_provider, before.issuer, before.subject) == (
        after.identity_provider,
        after.issuer,
        after.subject,
    )
