"""Stored consents: which person lets which agent use which tools of which server, until when.

A consent is written when the person agreed to a page that named all four, and is never widened:
a request for more asks again and makes a new one. `gid` names it in tokens; blocking the `gid`
is how it is withdrawn before it ends. Whether a stored consent covers a request is decided here,
by the same tool-pattern rule as everywhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from sqlalchemy import BigInteger, Connection, LargeBinary, delete, insert, select
from sqlmodel import Field, SQLModel, col

from database.engine import Database
from token_exchange.identifiers import new_id
from token_exchange.narrowing import pattern_covers


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """One person's consent. `tools` are names or patterns; times are NumericDate seconds."""

    gid: str
    sub: str
    agent: str
    server: str
    tools: tuple[str, ...]
    scope: str
    created_at: int
    expires_at: int

    def covers(self, tools: tuple[str, ...], scope: str) -> bool:
        """Whether a request for `tools` and `scope` asks for nothing more than was agreed to."""
        if not set(scope.split()) <= set(self.scope.split()):
            return False
        return all(any(pattern_covers(mine, tool) for mine in self.tools) for tool in tools)


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

    def __init__(self, database: Database, random: Callable[[int], bytes]) -> None:
        self._database = database
        self._random = random

    async def grant(
        self,
        *,
        sub: str,
        agent: str,
        server: str,
        tools: tuple[str, ...],
        scope: str,
        now: int,
        lifetime_seconds: int,
    ) -> Consent:
        """Write a new consent; those that ended are dropped on the way."""
        consent = Consent(
            gid=new_id("grt", self._random),
            sub=sub,
            agent=agent,
            server=server,
            tools=tools,
            scope=scope,
            created_at=now,
            expires_at=now + lifetime_seconds,
        )

        def work(connection: Connection) -> None:
            connection.execute(delete(ConsentRow).where(col(ConsentRow.expires_at) <= now))
            connection.execute(
                insert(ConsentRow).values(
                    gid=consent.gid,
                    sub=sub,
                    agent=agent,
                    server=server,
                    tools=msgspec.json.encode(tools),
                    scope=scope,
                    created_at=consent.created_at,
                    expires_at=consent.expires_at,
                )
            )

        await self._database.write(work)
        return consent

    def living(self, sub: str, agent: str, server: str, now: int) -> tuple[Consent, ...]:
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
                    tools=msgspec.json.decode(row.tools, type=tuple[str, ...]),
                    scope=row.scope,
                    created_at=row.created_at,
                    expires_at=row.expires_at,
                )
                for row in rows
            )

        return self._database.read(work)
