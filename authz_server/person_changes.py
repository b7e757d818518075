"""Acts on what an identity provider reports of its people.

Whatever the change is, what was issued for the people it concerns is out of date from now on:
their claims epoch moves (the next call gets 401), and whoever comes back is asked about anew. A
logout ends the login sessions that came from the session that ended, too; somebody disabled or
deleted loses all of theirs. Each change is done once, however often and to however many processes
it is reported, and recorded in the transaction that does it: a full spool keeps nobody in, and a
process that dies leaves no cut without its event.

People who first logged in after the change are not concerned by it: that is how a long feed can
be read again after a restart.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from audit_log.event import AuditEvent, EventType, Outcome, PrincipalKind
from authz_server.audit_events import made
from authz_server.parts import Parts, now_of
from authz_server.store.person_cuts import Ending, PersonCut
from authz_server.store.persons import PERSONS_AT_ONCE, SeenPerson
from authz_server.store.replay import OnceKind, UsedOnce
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
    concerned = await _concerned(parts, provider, change)
    if not concerned.persons or not await _cut(parts, provider, change, concerned):
        return 0
    return len(concerned.persons)


async def _concerned(parts: Parts, provider: str, change: PersonChange) -> _Concerned:
    persons: tuple[SeenPerson, ...] = ()
    sids: tuple[tuple[str, str], ...] = ()
    if change.subject is not None:
        persons = await parts.persons.of_subject(provider, change.subject)
    if change.upstream_session is not None:
        sids = await parts.upstream_sessions.sids(provider, change.upstream_session)
        known = {person.sub for person in persons}
        # Whose session it was, whatever else is said: both are cut off when the two differ.
        persons += await parts.persons.of_subs({sub for _, sub in sids} - known)
    return _Concerned(_not_newer(persons, change), tuple(sid for sid, _ in sids))


async def _cut(parts: Parts, provider: str, change: PersonChange, concerned: _Concerned) -> bool:
    events = [_event(parts, provider, change, person) for person in concerned.persons]
    cut = PersonCut(
        once=_once(parts, provider, change.event_id),
        subs=tuple(person.sub for person in concerned.persons),
        ending=_ending(change),
        sids=concerned.sids,
        reason=f"{change.kind} changed at the identity provider",
        author=author_of(provider),
        recorded=lambda _: events,
    )
    return await parts.person_cuts.apply(cut)


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
    count = 0
    for since in (0, begun_at - CLOCKS_APART_MS // 1000):
        async for persons in _pages(parts, provider, since):
            count += await _cut_page(parts, provider, change, _not_newer(persons, change))
    return count


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
