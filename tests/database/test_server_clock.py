"""The clock of the database server."""

from sqlalchemy import select, text

from database.engine import Database
from database.server_clock import server_now_ms


def test_server_clock_is_that_of_postgresql_and_sqlite_has_none(database: Database) -> None:
    if database.path.name:
        assert database.read(server_now_ms) is None
        return
    asked = select(text("extract(epoch from clock_timestamp()) * 1000"))
    before, said, after = database.write_now(
        lambda connection: (
            connection.scalar(asked),
            server_now_ms(connection),
            connection.scalar(asked),
        )
    )
    assert said is not None
    assert int(before) <= said <= after
