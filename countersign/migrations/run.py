"""Brings a database to the schema of this release. Safe to call from every process at its start.

All of it happens in one write transaction, so that a second process waits for the first and then
finds nothing to do, and a migration that fails leaves the database as it was. A database of a newer
release is refused.
"""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from database.engine import Database
from database.errors import DatabaseError

FOLDER: Final = Path(__file__).parent


class NewerDatabaseError(DatabaseError):
    """The database was migrated by a release newer than this one."""


def upgrade(database_url: str) -> None:
    """Create or upgrade the tables.

    Raises:
        DatabaseError: It cannot be opened or written, or belongs to a newer release.
    """
    database = Database.open(database_url)
    try:
        database.write_now(upgrade_connection)
    finally:
        database.close()


def upgrade_connection(connection: Connection) -> None:
    """As `upgrade`, inside a write."""
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
