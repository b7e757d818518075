"""Stored consents: which person lets which agent use which tools of which server, until when.

A consent is written when the person agreed to a page that named all four, and is never widened:
a request for more asks again and makes a new one. What the page showed of each tool, and of agent
and server around it, is kept as a digest (`requested_access.shown_tools`): a tool that changed, an
agent of another owner or a server at another URL is another thing, and is asked about again. `gid`
names a consent in tokens; blocking the `gid` is how it is withdrawn before it ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from sqlalchemy import BigInteger, Connection, LargeBinary, delete, insert, select
from sqlmodel import Field, SQLModel, col

from database.engine import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """One person's consent. `tools`: name → digest of what was shown; times are NumericDate."""

    gid: str
    sub: str
    agent: str
    server: str
    tools: Mapping[str, str]
    scope: str
    created_at: int
    expires_at: int

    def covers(self, shown: Mapping[str, str], scope: str) -> bool:
        """Whether a request asks for nothing but what was agreed to, as it was shown then."""
        if not set(scope.split()) <= set(self.scope.split()):
            return False
        return self.agreed(shown) == frozenset(shown)

    def agreed(self, shown: Mapping[str, str]) -> frozenset[str]:
        """The tools of `shown` (name → digest) that were agreed to in this very form."""
        return frozenset(tool for tool, digest in shown.items() if self.tools.get(tool) == digest)


class ConsentRow(SQLModel, table=True):
    """One consent."""

    __tablename__ = "consents"

    gid: str = Field(primary_key=True, max_length=64)
    sub: str = Field(index=True, max_length=64)
    agent: str = Field(max_length=64)
    server: str = Field(max_length=64)
    tools: bytes = Field(sa_type=LargeBinary)
    scope: str = Field(max_length=1024)
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger, index=True)


class ConsentStore:
    """The repository of consents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def living(self, sub: str, agent: str, server: str, now: int) -> tuple[Consent, ...]:
        """The consents of this person for this agent at this server, latest first."""

        def work(connection: Connection) -> tuple[Consent, ...]:
            rows = connection.execute(
                select(ConsentRow)
                .where(
                    col(ConsentRow.sub) == sub,
                    col(ConsentRow.agent) == agent,
                    col(ConsentRow.server) == server,
                    col(ConsentRow.expires_at) > now,
                )
                .order_by(col(ConsentRow.created_at).desc(), col(ConsentRow.gid))
            ).all()
            return tuple(
                Consent(
                    gid=row.gid,
                    sub=row.sub,
                    agent=row.agent,
                    server=row.server,
                    tools=msgspec.json.decode(row.tools, type=dict[str, str]),
                    scope=row.scope,
                    created_at=row.created_at,
                    expires_at=row.expires_at,
                )
                for row in rows
            )

        return await self._database.fetch(work)


def grant_in(connection: Connection, consent: Consent) -> None:
    """Inside a write: store a new consent; those that ended are dropped on the way."""
    connection.execute(delete(ConsentRow).where(col(ConsentRow.expires_at) <= consent.created_at))
    connection.execute(
        insert(ConsentRow).values(
            gid=consent.gid,
            sub=consent.sub,
            agent=consent.agent,
            server=consent.server,
            tools=msgspec.json.encode(consent.tools),
            scope=consent.scope,
            created_at=consent.created_at,
            expires_at=consent.expires_at,
        )
    )
