"""What an identity provider reports of its people after they logged in, and who asks it.

A provider that can report changes is asked again and again; each answer is a page of changes and
the cursor to ask with next. A change says that something *may* be different: it makes what was
issued before out of date, and whoever comes back is asked about anew. So a change reported twice,
or a change that turns out to be none, costs one more question and lets nobody in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable


class ChangeKind(StrEnum):
    """What may be different. The words go to the audit."""

    GROUPS = "groups"
    ROLES = "roles"
    PROFILE = "profile"  # name, attributes; also whatever an update does not say
    DISABLED = "disabled"
    DELETED = "deleted"
    LOGGED_OUT = "logged_out"
    SESSION_ENDED = "session_ended"
    DIRECTORY = "directory"  # a group or role itself, or more changes than can be followed
    UNWATCHED = "unwatched"  # the provider has not answered for too long


@dataclass(frozen=True, slots=True)
class PersonChange:
    """One change. Exactly the people it concerns, or everyone when neither is said.

    `event_id` is the provider's own and unique there; `at_ms` Unix milliseconds by its clock.
    `subject` is the person's `sub` at the provider, `upstream_session` its `sid` for them.
    """

    event_id: str
    kind: ChangeKind
    at_ms: int
    subject: str | None = None
    upstream_session: str | None = None

    @property
    def is_for_everyone(self) -> bool:
        """Whether it concerns all people of the provider."""
        return self.subject is None and self.upstream_session is None


@dataclass(frozen=True, slots=True)
class FeedCursor:
    """How far one feed was read: the newest event's time, and the ids that may come again.

    `resume_from_ms` is where to go on when the last reading was not the whole of it.
    """

    seen_until_ms: int
    seen: Mapping[str, int] = field(default_factory=dict)  # event id → its time
    resume_from_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ChangeReport:
    """Changes in their order, and the cursors to ask with next, by feed."""

    changes: tuple[PersonChange, ...]
    cursors: Mapping[str, FeedCursor]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is known to be waiting."""
        return all(cursor.resume_from_ms is None for cursor in self.cursors.values())


class ChangesUnavailableError(Exception):
    """The provider could not be asked. `code` is short and has nothing secret in it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@runtime_checkable
class ReportsChanges(Protocol):
    """A declared IdentityProvider that can be asked what changed."""

    @property
    def poll_seconds(self) -> float | None:
        """How often to ask; None when the operator gave it nothing to ask with."""

    @property
    def blind_after_seconds(self) -> float:
        """After how long without an answer its people are no longer believed."""

    async def changes(self, cursors: Mapping[str, FeedCursor], start_ms: int) -> ChangeReport:
        """What changed since the cursors, or since `start_ms` where there is none.

        Raises:
            ChangesUnavailableError: nothing was learned; ask again with the same cursors.
        """
