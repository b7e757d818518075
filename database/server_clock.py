"""The clock of the database server, where that is another than the clock of its processes."""

from sqlalchemy import Connection, func, select


def server_now_ms(connection: Connection) -> int | None:
    """What the server's clock says, in Unix milliseconds.

    None on SQLite: it has no server, and all its processes are on one machine with one clock.
    """
    if connection.dialect.name == "sqlite":
        return None
    return int(connection.execute(select(func.clock_timestamp())).scalar_one().timestamp() * 1000)
