"""What identity providers reported lately, kept by whom it concerns, known here or not.

A change cuts off those we know (`person_cuts`). But somebody who was never here, or a session we
never saw, may still be brought by a token or a login from before the change: whoever brings one
notes who it is first and asks here then, while a change is looked up and kept in one write. So of
the two one always sees the other.

A row says until when what was issued for a person, a session or everybody of a provider is out of
date. Only digests are kept: who never came here is nobody's business. A row is kept for as long as
anything from before it could be presented. The rows of a provider are bounded: where there are
more, the oldest go, and whatever the provider issued before them is out of date for everybody.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import BigInteger, Connection, Index, delete, func, insert, select, update
from sqlmodel import Field, SQLModel, col

from database.engine import Database
from registry.objects import LONGEST_TOKEN_AGE_SECONDS

# A token of before is refused for its age after this; the rest is for clocks that differ.
KEPT_SECONDS: Final = LONGEST_TOKEN_AGE_SECONDS + 900
MAXIMUM_ROWS: Final = 20_000  # of one provider: five changes a second of people never seen here
DROPPED_AT_ONCE: Final = 1_000  # so that a flood does not look for the oldest with every change
PRUNED_AT_ONCE: Final = 500  # more than come with a change, so that what has gathered goes


class Concerns(StrEnum):
    """What a row is about."""

    SUBJECT = "subject"
    SESSION = "session"
    EVERYBODY = "everybody"


@dataclass(frozen=True, slots=True)
class ReportedChange:
    """What of a provider is out of date: its subject, its session, or everybody if neither is said.

    `not_after` (NumericDate seconds, our clock): whatever was issued then or before.
    """

    identity_provider: str
    not_after: int
    subject: str | None = None
    upstream_session: str | None = None


class ReportedChangeRow(SQLModel, table=True):
    """One person, session or provider something was reported of."""

    __tablename__ = "reported_changes"
    __table_args__ = (Index(None, "identity_provider", "not_after"),)

    digest: str = Field(primary_key=True, max_length=64)
    identity_provider: str = Field(max_length=64)
    not_after: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger, index=True)


class ReportedChanges:
    """Asks what was reported. Shared by every process on the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def concern(
        self,
        identity_provider: str,
        issued_at: int,
        *,
        subject: str,
        upstream_session: str | None = None,
    ) -> bool:
        """Whether something issued then for this person and session is out of date.

        INVARIANT: the caller has noted person and session before, so that a change that is not
        seen here finds them.
        """
        named = (identity_provider, subject, upstream_session)
        query = (
            select(col(ReportedChangeRow.digest))
            .where(
                col(ReportedChangeRow.digest).in_([_everybody(identity_provider), *_named(*named)]),
                col(ReportedChangeRow.not_after) >= issued_at,
            )
            .limit(1)
        )

        def work(connection: Connection) -> bool:
            return connection.execute(query).first() is not None

        return await self._database.fetch(work)


def keep_in(connection: Connection, change: ReportedChange, now: int) -> int:
    """Inside a write: keep a change; how many older ones of the provider had to go for it.

    `now` is NumericDate seconds.
    """
    provider = change.identity_provider
    expired = (
        select(col(ReportedChangeRow.digest))
        .where(col(ReportedChangeRow.expires_at) <= now)
        .limit(PRUNED_AT_ONCE)
    )
    _forget(connection, connection.execute(expired).scalars())
    named = _named(provider, change.subject, change.upstream_session)
    for digest in named or (_everybody(provider),):
        _keep(connection, digest, provider, change.not_after)
    return _drop_oldest(connection, provider)


def _keep(connection: Connection, digest: str, provider: str, not_after: int) -> None:
    """Writes are one after the other: between reading and writing a row nobody else writes it."""
    this = col(ReportedChangeRow.digest) == digest
    known = connection.scalar(select(col(ReportedChangeRow.not_after)).where(this))
    values = {"not_after": not_after, "expires_at": not_after + KEPT_SECONDS}
    if known is None:
        row = {"digest": digest, "identity_provider": provider, **values}
        connection.execute(insert(ReportedChangeRow).values(row))
    elif known < not_after:
        connection.execute(update(ReportedChangeRow).where(this).values(values))


def _drop_oldest(connection: Connection, provider: str) -> int:
    """Make room. INVARIANT: what goes is still refused, with everything else of its time."""
    of_provider = col(ReportedChangeRow.identity_provider) == provider
    kept = connection.scalar(select(func.count()).select_from(ReportedChangeRow).where(of_provider))
    if (kept or 0) <= MAXIMUM_ROWS:
        return 0
    everybody = _everybody(provider)
    oldest = connection.execute(
        select(col(ReportedChangeRow.digest), col(ReportedChangeRow.not_after))
        .where(of_provider, col(ReportedChangeRow.digest) != everybody)
        .order_by(col(ReportedChangeRow.not_after))
        .limit(DROPPED_AT_ONCE)
    ).all()
    _forget(connection, [row.digest for row in oldest])
    _keep(connection, everybody, provider, max(row.not_after for row in oldest))
    return len(oldest)


def _forget(connection: Connection, digests: Iterable[str]) -> None:
    gone = tuple(digests)
    if gone:
        connection.execute(delete(ReportedChangeRow).where(col(ReportedChangeRow.digest).in_(gone)))


def _named(provider: str, subject: str | None, upstream_session: str | None) -> tuple[str, ...]:
    both = ((Concerns.SUBJECT, subject), (Concerns.SESSION, upstream_session))
    return tuple(_digest(kind, provider, value) for kind, value in both if value is not None)


def _everybody(provider: str) -> str:
    return _digest(Concerns.EVERYBODY, provider, "")


def _digest(kind: Concerns, provider: str, value: str) -> str:
    """The row's key; lengths keep ("ab", "c") and ("a", "bc") apart."""
    joined = "".join(f"{len(part)}:{part}" for part in (kind.value, provider, value))
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()
