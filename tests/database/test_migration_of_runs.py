"""Refresh token families from before their run was a column of its own."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from countersign.migrations.run import FOLDER, upgrade
from database.engine import Database


def upgrade_to_before(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", FOLDER.as_posix())
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "0005-1")


def test_families_from_before_learn_which_run_they_serve(database_url: str) -> None:
    database = Database.open(database_url)
    database.write_now(upgrade_to_before)
    rows = [
        {"family": "fam_1", "granted": b'{"invocation": "inv_1", "sub": "usr_1"}'},
        {"family": "fam_2", "granted": b'{"invocation": null, "sub": "usr_1"}'},
    ]
    insert = text("INSERT INTO refresh_families VALUES (:family, :granted, 2000000000, NULL)")
    database.write_now(lambda connection: connection.execute(insert, rows).rowcount)
    database.close()
    upgrade(database_url)
    migrated = Database.open(database_url)
    query = text("SELECT family_id, invocation FROM refresh_families ORDER BY family_id")
    found = migrated.read(lambda connection: [tuple(row) for row in connection.execute(query)])
    assert found == [("fam_1", "inv_1"), ("fam_2", None)]
    migrated.close()
