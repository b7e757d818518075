"""Acts on what an identity provider reports of its people.

Whatever the change is, what was issued for the people it concerns is out of date from now on:
their claims epoch moves (the next call gets 401), and whoever comes back is asked about anew. A
logout ends the login sessions that came from the session that ended, too; somebody disabled or
deleted loses all of theirs. Each change is done once, however often and to however many processes
it is reported, and recorded in the transaction that does it: a full spool keeps nobody in, and a
process that dies leaves no cut without its event.

Whether or not anybody here is concerned, the change is kept for a while in that transaction
(`store.reported_changes`): what was issued before it may still be brought by somebody who was
never here, or from a session we never saw.

People who first logged in after the change are not concerned by it: that is how a long feed can
be read again after a restart.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection

from audit_log.event import AuditEvent, EventType, Outcome, PrincipalKind
from audit_log.transaction_log import append_in
from authz_server.audit_events import made
from authz_server.parts import Parts, now_of
from authz_server.store.person_cuts import Ending, PersonCut
from authz_server.store.persons import PERSONS_AT_ONCE, SeenPerson, of_subject_in, of_subs_in
from authz_server.store.replay import OnceKind, UsedOnce
from authz_server.store.reported_changes import KEPT_SECONDS, ReportedChange, keep_in
from authz_server.store.upstream_sessions import sids_in
from idp_connectors.workforce.person_changes import ChangeKind, PersonChange

REMEMBERED_SECONDS: Final = 86_400  # longer than any feed is read back
CLOCKS_APART_MS: Final = 60_000  # what two clocks may differ by, before somebody is left out

_ENDS_ALL: Final = frozenset((ChangeKind.DISABLED, ChangeKind.DELETED))
_ENDS_SESSION: Final = frozenset((ChangeKind.LOGGED_OUT, ChangeKind.SESSION_ENDED))


@dataclass(frozen=True, slots=True)
class _Concerned:
    """Some of the people a change concerns, and of their sessions those it names."""

    persons: tuple[SeenPerson, ...]
    sids: tuple[str, ...] = ()


async def apply_change(parts: Parts, provider: str, change: PersonChange) -> int:
    """Cut off whomever a change concerns, and record it; how many people were.

    Raises:
        DatabaseError: nothing of it, or not all of it, is done: do it again.
    """
    if change.is_for_everyone:
        return await _cut_everyone(parts, provider, change)
    if _is_over(parts, change) and not await _is_anybodys(parts, provider, change):
        return 0  # most of a long feed that is read back: nothing to write
    return await _cut(parts, provider, change)


def _is_over(parts: Parts, change: PersonChange) -> bool:
    """Whether nothing from before the change could be presented any more."""
    return _not_after(change, int(parts.clock() * 1000)) + KEPT_SECONDS <= parts.clock()


async def _is_anybodys(parts: Parts, provider: str, change: PersonChange) -> bool:
    subject, session = change.subject, change.upstream_session
    if subject is not None and await parts.persons.of_subject(provider, subject):
        return True
    return session is not None and bool(await parts.upstream_sessions.sids(provider, session))


async def _cut(parts: Parts, provider: str, change: PersonChange) -> int:
    """Find whom it concerns, cut them off and keep the change: one write, once."""
    concerned = _Concerned(())

    def completed(connection: Connection, cut: PersonCut) -> PersonCut:
        nonlocal concerned
        concerned = _concerned(connection, provider, change)
        events = [_event(parts, provider, change, person) for person in concerned.persons]
        events += _kept(connection, parts, provider, change)
        subs = tuple(person.sub for person in concerned.persons)
        return replace(cut, subs=subs, sids=concerned.sids, recorded=lambda _: events)

    cut = PersonCut(
        once=_once(parts, provider, change.event_id),
        subs=(),
        ending=_ending(change),
        sids=(),
        reason=f"{change.kind} changed at the identity provider",
        author=author_of(provider),
        recorded=lambda _: (),
    )
    is_fresh = await parts.person_cuts.apply(cut, completed)
    return len(concerned.persons) if is_fresh else 0


def _concerned(connection: Connection, provider: str, change: PersonChange) -> _Concerned:
    persons: tuple[SeenPerson, ...] = ()
    sids: tuple[tuple[str, str], ...] = ()
    if change.subject is not None:
        persons = _not_newer(of_subject_in(connection, provider, change.subject), change)
    if change.upstream_session is not None:
        sids = sids_in(connection, provider, change.upstream_session)
        known = {person.sub for person in persons}
        # Whose session it was, whatever else is said: both are cut off when the two differ. No
        # session came from one after its end, whatever two clocks say.
        persons += of_subs_in(connection, {sub for _, sub in sids} - known)
    return _Concerned(persons, tuple(sid for sid, _ in sids))


def _kept(
    connection: Connection, parts: Parts, provider: str, change: PersonChange
) -> list[AuditEvent]:
    """Inside a write: keep the change for whoever is not known yet; the event of what went for it.

    The clock is asked here, as for every revocation: the write may have waited.
    """
    now_ms = int(parts.clock() * 1000)
    reported = ReportedChange(
        provider, _not_after(change, now_ms), change.subject, change.upstream_session
    )
    dropped = keep_in(connection, reported, now_ms // 1000)
    if not dropped:
        return []
    detail = f"more changes than are kept: what was issued before the oldest {dropped} is refused"
    return [_event(parts, provider, change, None, detail)]


def _not_after(change: PersonChange, now_ms: int) -> int:
    """Until when what was issued is out of date, by our clock: never in the future."""
    return -(-min(now_ms, change.at_ms + CLOCKS_APART_MS) // 1000)


def _ending(change: PersonChange) -> Ending:
    if change.kind in _ENDS_ALL:
        return Ending.ALL
    if change.kind in _ENDS_SESSION:
        return Ending.ALL if change.upstream_session is None else Ending.NAMED
    return Ending.NONE


async def _cut_everyone(parts: Parts, provider: str, change: PersonChange) -> int:
    """All people of a provider, in writes that nobody has to wait long for.

    Who came while they were gone through is gone through again: their `sub` may be before where
    we are.
    """
    begun_at = int(parts.clock())
    await _keep_for_everyone(parts, provider, change)
    count = 0
    for since in (0, begun_at - CLOCKS_APART_MS // 1000):
        async for persons in _pages(parts, provider, since):
            count += await _cut_page(parts, provider, change, _not_newer(persons, change))
    return count


async def _keep_for_everyone(parts: Parts, provider: str, change: PersonChange) -> None:
    """First, once: whoever comes from now on is seen with the others, or finds it."""

    def keep(connection: Connection) -> None:
        events = _kept(connection, parts, provider, change)
        append_in(connection, events, int(parts.clock() * 1000))

    once = _once(parts, provider, change.event_id)
    await parts.replay.use((once,), now_of(parts), also=keep)


async def _cut_page(
    parts: Parts, provider: str, change: PersonChange, persons: tuple[SeenPerson, ...]
) -> int:
    if not persons:
        return 0

    def recorded(subs: Sequence[str]) -> tuple[AuditEvent, ...]:
        detail = f"everybody of this provider: {len(subs)}"
        return (_event(parts, provider, change, None, detail),)

    cut = PersonCut(
        once=_once(parts, provider, change.event_id),
        subs=tuple(person.sub for person in persons),
        ending=Ending.NONE,
        sids=(),
        reason=f"{change.kind}: everybody of the identity provider",
        author=author_of(provider),
        recorded=recorded,
    )
    return await parts.person_cuts.apply_to_each(cut)


async def _pages(
    parts: Parts, provider: str, seen_since: int
) -> AsyncIterator[tuple[SeenPerson, ...]]:
    """Those first seen since, in the order of `sub`: a place in it is a `sub`, never a number."""
    after = ""
    while True:
        persons = await parts.persons.of_provider(
            provider, after_sub=after, first_seen_since=seen_since
        )
        yield persons
        if len(persons) < PERSONS_AT_ONCE:
            return
        after = persons[-1].sub


def _not_newer(persons: tuple[SeenPerson, ...], change: PersonChange) -> tuple[SeenPerson, ...]:
    until_ms = change.at_ms + CLOCKS_APART_MS
    return tuple(person for person in persons if person.first_seen_at * 1000 <= until_ms)


def _once(parts: Parts, provider: str, event_id: str) -> UsedOnce:
    expires_at = now_of(parts) + REMEMBERED_SECONDS
    return UsedOnce(OnceKind.PERSON_CHANGE, provider, event_id, expires_at)


def author_of(provider: str) -> str:
    """Who did it, in the audit and in the revocation sequence."""
    return f"IdentityProvider/{provider}"


def _event(
    parts: Parts,
    provider: str,
    change: PersonChange,
    person: SeenPerson | None,
    detail: str | None = None,
) -> AuditEvent:
    return made(
        parts,
        EventType.PERSON_CHANGED,
        Outcome.REVOKED,
        principal_kind=PrincipalKind.NONE if person is None else PrincipalKind.PERSON,
        user=None if person is None else person.sub,
        user_name=None if person is None else person.display_name,
        object_ref=author_of(provider),
        author=author_of(provider),
        reasons=(f"person.{change.kind}",),
        detail=detail or f"event {change.event_id}",
    )
