"""Brings a database to the schema of this release. Safe to call from every process at its start.

All of it happens in one write transaction, so that a second process waits for the first and then
finds nothing to do (however long that takes), and a migration that fails leaves the database as it
was. A database of a newer release is refused.

When there is nothing to do, nothing but reading is asked of the database: a server that may not
change tables can run on what a more powerful role has migrated.
"""

import time
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from database.engine import Database
from database.errors import DatabaseBusyError, DatabaseError

FOLDER: Final = Path(__file__).parent
WAIT_SECONDS: Final = 120.0  # for another process to finish migrating


class NewerDatabaseError(DatabaseError):
    """The database was migrated by a release newer than this one."""


def upgrade(database_url: str) -> None:
    """Create or upgrade the tables.

    Raises:
        DatabaseError: It cannot be opened or written, or belongs to a newer release.
    """
    database = Database.open(database_url)
    deadline = time.monotonic() + WAIT_SECONDS
    try:
        while True:
            try:
                database.write_now(upgrade_connection)
            except DatabaseBusyError:  # another process migrates
                if time.monotonic() > deadline:
                    raise
            else:
                return
    finally:
        database.close()


def upgrade_connection(connection: Connection) -> None:
    """As `upgrade`, inside a write."""
    if connection.dialect.name == "postgresql":
        # Copying a large table takes what it takes; the limits hold again after this transaction.
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    config = Config()
    config.set_main_option("script_location", FOLDER.as_posix().replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    _require_known(connection, ScriptDirectory.from_config(config))
    command.upgrade(config, "head")


def _require_known(connection: Connection, scripts: ScriptDirectory) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    for revision in MigrationContext.configure(connection).get_current_heads():
        if revision not in known:
            raise NewerDatabaseError(
                f"the database has schema {revision}, which this release does not know; "
                "run the release that wrote it, or a newer one"
            )
