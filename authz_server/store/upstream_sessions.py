"""Which login session here came from which session at the identity provider (its `sid`).

Written at a login, and when an agent presents a token of such a session; read when the provider
says that a session ended: it names its own, we end ours. A row outlives the login session, because
what was issued in it may.
"""

from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import BigInteger, Connection, Index, delete, insert, select, update
from sqlmodel import Field, SQLModel, col

from database.engine import Database

KEPT_SECONDS: Final = 30 * 86_400


@dataclass(frozen=True, slots=True)
class UpstreamSession:
    """One login session of ours, whose it is, and the session at the provider it came from."""

    sid: str
    sub: str
    identity_provider: str
    upstream_sid: str


class UpstreamSessionRow(SQLModel, table=True):
    """One login session of ours and where it came from."""

    __tablename__ = "upstream_sessions"
    __table_args__ = (Index(None, "identity_provider", "upstream_sid"),)

    sid: str = Field(primary_key=True, max_length=64)
    sub: str = Field(index=True, max_length=64)
    identity_provider: str = Field(max_length=64)
    upstream_sid: str = Field(max_length=512)
    expires_at: int = Field(sa_type=BigInteger, index=True)


class UpstreamSessionStore:
    """The repository of upstream sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def remember(self, session: UpstreamSession, now: int) -> None:
        """Note where a login session comes from. `now` is NumericDate seconds."""
        row = {**asdict(session), "expires_at": now + KEPT_SECONDS}

        def work(connection: Connection) -> None:
            connection.execute(
                delete(UpstreamSessionRow).where(col(UpstreamSessionRow.expires_at) <= now)
            )
            connection.execute(insert(UpstreamSessionRow).values(row))

        await self._database.write(work)

    async def note(self, session: UpstreamSession, now: int) -> None:
        """As `remember`, for a `sid` that may be noted already: it is kept as long again."""
        expires_at = now + KEPT_SECONDS

        def work(connection: Connection) -> None:
            kept = connection.execute(
                update(UpstreamSessionRow)
                .where(col(UpstreamSessionRow.sid) == session.sid)
                .values(expires_at=expires_at)
            )
            if kept.rowcount == 0:
                row = {**asdict(session), "expires_at": expires_at}
                connection.execute(insert(UpstreamSessionRow).values(row))

        await self._database.write(work)

    async def sids(self, identity_provider: str, upstream_sid: str) -> tuple[tuple[str, str], ...]:
        """As `sids_in`."""
        return await self._database.fetch(
            lambda connection: sids_in(connection, identity_provider, upstream_sid)
        )


def sids_in(
    connection: Connection, identity_provider: str, upstream_sid: str
) -> tuple[tuple[str, str], ...]:
    """(`sid`, `sub`) of our sessions that came from one at the provider."""
    rows = connection.execute(
        select(col(UpstreamSessionRow.sid), col(UpstreamSessionRow.sub)).where(
            col(UpstreamSessionRow.identity_provider) == identity_provider,
            col(UpstreamSessionRow.upstream_sid) == upstream_sid,
        )
    )
    return tuple((row.sid, row.sub) for row in rows)
