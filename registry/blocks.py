"""Revocation rules, pure: what is blocked, what an epoch refuses, how events fold into state.

Two states (docs/architecture.md, "Revocation"): a *block* refuses issue and use until restored;
an *epoch* (`not_before`) refuses whatever was issued at or before it, for ever. Kill sets both,
restore clears only the block.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from token_exchange.claims import AccessTokenClaims, Actor


class BlockKind(StrEnum):
    """What can be cut off."""

    AGENT = "agent"
    AGENT_GROUP = "agent_group"
    SUBJECT = "sub"
    SESSION = "sid"
    CONSENT = "gid"
    CLIENT = "client_id"
    INVOCATION = "inv"
    TOKEN = "jti"  # noqa: S105 - a claim's name
    CLAIMS = "claims"  # a person's claims epoch: only ever an epoch, answered 401


# Runs and tokens are as many as there were calls to make. A day after one was cut off, nothing that
# could yield it again is alive: sessions and refresh tokens last eight hours, an agent alone goes
# on with its run for eight, tokens last fifteen minutes.
FORGETTABLE: Final = frozenset((BlockKind.INVOCATION, BlockKind.TOKEN))
FORGET_SECONDS: Final = 86_400
FORGET_EVERY_SECONDS: Final = 3_600  # looking for what to forget takes time, so not at every event
AGENT_AUTHOR: Final = "agent:"  # of a run that an agent ended itself; its name follows
_NOTHING_TO_FORGET: Final = 2**62


class BlockEntry(msgspec.Struct, frozen=True):
    """The state of one subject. `not_before` is NumericDate seconds; 0 means none."""

    kind: BlockKind
    id: str
    blocked: bool
    not_before: int


class RevocationEvent(msgspec.Struct, frozen=True):
    """One row of the sequence; carries the whole new state of its subject.

    `at_ms` is Unix milliseconds of the write, never later than the database server's clock says.
    """

    sequence: int
    kind: BlockKind
    id: str
    blocked: bool
    not_before: int
    reason: str
    author: str
    at_ms: int


class Subject(msgspec.Struct, frozen=True):
    """One thing a token depends on that could be cut off."""

    kind: BlockKind
    id: str


@dataclass(frozen=True, slots=True)
class Hit:
    """Which subject refuses a token, and whether by block or by epoch."""

    subject: Subject
    blocked: bool


@dataclass(frozen=True, slots=True)
class BlockState:
    """All subjects with a block or epoch, up to `sequence`. Immutable: applying makes a new one."""

    sequence: int = 0
    entries: Mapping[tuple[BlockKind, str], BlockEntry] = field(default_factory=dict)
    _oldest_forgettable: int = field(default=_NOTHING_TO_FORGET, compare=False, repr=False)

    @classmethod
    def of(cls, sequence: int, entries: Iterable[BlockEntry]) -> "BlockState":
        """The state a snapshot carries."""
        found = {(entry.kind, entry.id): entry for entry in entries}
        return cls(sequence, found, _oldest_of(found.values()))

    def applying(self, *events: RevocationEvent) -> "BlockState":
        """The state after `events`, in the order of their sequence; those contained are left out.

        What is forgotten is so by an event's own time: the same in every process.
        """
        new = [event for event in events if event.sequence > self.sequence]
        if not new:
            return self
        changed = [BlockEntry(each.kind, each.id, each.blocked, each.not_before) for each in new]
        # One copy for all of them: there may be as many entries as runs in a day.
        entries = {**self.entries, **{(entry.kind, entry.id): entry for entry in changed}}
        oldest = min(self._oldest_forgettable, _oldest_of(changed))
        if oldest < forgotten_before(new[-1].at_ms):
            entries = remembered(entries, new[-1].at_ms)
            oldest = _oldest_of(entries.values())
        return BlockState(new[-1].sequence, entries, oldest)

    def first_hit(self, subjects: Iterable[Subject], issued_at: int) -> Hit | None:
        """The first of `subjects` that refuses something issued at `issued_at`.

        INVARIANT: `issued_at <= not_before` refuses (epochs are rounded up when written).
        """
        if not self.entries:
            return None
        for subject in subjects:
            entry = self.entries.get((subject.kind, subject.id))
            if entry is not None and (entry.blocked or issued_at <= entry.not_before):
                return Hit(subject, entry.blocked)
        return None


def remembered(
    entries: Mapping[tuple[BlockKind, str], BlockEntry], now_ms: int
) -> dict[tuple[BlockKind, str], BlockEntry]:
    """`entries` without those that can refuse nothing any more."""
    oldest = forgotten_before(now_ms)
    return {
        key: entry
        for key, entry in entries.items()
        if entry.kind not in FORGETTABLE or entry.not_before >= oldest
    }


def forgotten_before(now_ms: int) -> int:
    """Runs and tokens with an epoch before this (NumericDate) are forgotten; it moves in steps."""
    step_ms = FORGET_EVERY_SECONDS * 1000
    return now_ms // step_ms * FORGET_EVERY_SECONDS - FORGET_SECONDS


def _oldest_of(entries: Iterable[BlockEntry]) -> int:
    forgettable = (entry.not_before for entry in entries if entry.kind in FORGETTABLE)
    return min(forgettable, default=_NOTHING_TO_FORGET)


def epoch_after(now_ms: int) -> int:
    """The epoch that refuses everything issued up to `now_ms`: rounded up to the next second."""
    return -(-now_ms // 1000)


def agents_of_chain(actor: Actor | None, agent: str | None) -> tuple[str, ...]:
    """Every Agent name in an actor chain, outermost first; `agent` is the top-level claim."""
    names: list[str] = [] if agent is None else [agent]
    while actor is not None:
        if actor.agent is not None:
            names.append(actor.agent)
        actor = actor.act
    return tuple(names)


def subjects_of(
    token: AccessTokenClaims, groups_of_agent: Mapping[str, tuple[str, ...]]
) -> tuple[Subject, ...]:
    """Everything whose block or epoch refuses this token."""
    found = [
        Subject(BlockKind.SUBJECT, token.sub),
        Subject(BlockKind.CLAIMS, token.sub),
        Subject(BlockKind.CLIENT, token.client_id),
        Subject(BlockKind.TOKEN, token.jti),
    ]
    for agent in agents_of_chain(token.act, token.agent):
        found.append(Subject(BlockKind.AGENT, agent))
        found.extend(
            Subject(BlockKind.AGENT_GROUP, group) for group in groups_of_agent.get(agent, ())
        )
    optional = (
        (BlockKind.SESSION, token.sid),
        (BlockKind.CONSENT, token.gid),
        (BlockKind.INVOCATION, token.inv),
    )
    found.extend(Subject(kind, value) for kind, value in optional if value is not None)
    return tuple(found)
