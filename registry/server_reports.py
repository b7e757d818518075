"""What each Gateway last found when it looked at the MCP servers behind it.

One row per Gateway and server, replaced by each report: whether the server answered, in which era,
and since when it does not. A gateway looks about once a minute, so this is a picture for operators;
nothing is decided on it. Rows of servers or Gateways that are gone are dropped when they are older
than a day.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, Connection, delete, insert, select
from sqlmodel import Field, SQLModel, col

from database.engine import Database

MAXIMUM_ERROR_LENGTH: Final = 256
FORGET_AFTER_MS: Final = 86_400_000


class ServerReportRow(SQLModel, table=True):
    """One report. Times are Unix milliseconds, ours."""

    __tablename__ = "server_reports"

    gateway: str = Field(primary_key=True, max_length=63)
    server: str = Field(primary_key=True, max_length=63)
    error: str = Field(default="", max_length=MAXIMUM_ERROR_LENGTH)
    era: str = Field(default="", max_length=16)
    reported_at_ms: int = Field(sa_type=BigInteger)
    since_ms: int = Field(sa_type=BigInteger)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """What a Gateway found of a server.

    `error`: why its tools could not be seen, empty when they could. `era`: modern or legacy, empty
    when unknown. `since_ms`: the first report in a row that said this. Unix milliseconds.
    """

    gateway: str
    server: str
    error: str
    era: str
    reported_at_ms: int
    since_ms: int

    @property
    def is_reachable(self) -> bool:
        """Whether its tools could be seen."""
        return not self.error


class ServerReportStore:
    """The repository of reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, gateway: str, server: str, *, error: str, era: str, now_ms: int) -> None:
        """Keep what a Gateway found just now."""
        error = error[:MAXIMUM_ERROR_LENGTH]

        def work(connection: Connection) -> None:
            this = (col(ServerReportRow.gateway) == gateway, col(ServerReportRow.server) == server)
            before = connection.execute(select(ServerReportRow).where(*this)).one_or_none()
            since_ms = before.since_ms if before and before.error == error else now_ms
            old = col(ServerReportRow.reported_at_ms) < now_ms - FORGET_AFTER_MS
            connection.execute(delete(ServerReportRow).where(*this))
            connection.execute(delete(ServerReportRow).where(old))
            connection.execute(
                insert(ServerReportRow).values(
                    gateway=gateway,
                    server=server,
                    error=error,
                    era=era,
                    reported_at_ms=now_ms,
                    since_ms=since_ms,
                )
            )

        await self._database.write(work)

    def all(self) -> tuple[ServerReport, ...]:
        """The last report of every Gateway on every server."""

        def work(connection: Connection) -> tuple[ServerReport, ...]:
            query = select(ServerReportRow).order_by(
                col(ServerReportRow.server), col(ServerReportRow.gateway)
            )
            return tuple(
                ServerReport(
                    gateway=row.gateway,
                    server=row.server,
                    error=row.error,
                    era=row.era,
                    reported_at_ms=row.reported_at_ms,
                    since_ms=row.since_ms,
                )
                for row in connection.execute(query)
            )

        return self._database.read(work)
