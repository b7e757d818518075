"""Migrations and tables say the same, and a database comes up to date exactly once."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

import countersign.migrations.tables as tables_module
from countersign.migrations import run
from countersign.migrations.run import NewerDatabaseError, upgrade, upgrade_connection
from countersign.migrations.tables import METADATA
from database.engine import Database
from database.errors import DatabaseError, UnsupportedDatabaseError

REPOSITORY = Path(__file__).parents[2]
PACKAGES = (
    "admin_console",
    "audit_log",
    "authz_server",
    "countersign",
    "credential_providers",
    "database",
    "idp_connectors",
    "registry",
)


Schema = dict[str, set[tuple[object, ...]]]


@pytest.fixture
def migrated(database_url: str) -> Iterator[Database]:
    upgrade(database_url)
    database = Database.open(database_url)
    yield database
    database.close()


def schema_of(connection: Connection) -> Schema:
    """What the database itself says of every table: columns, indexes and constraints."""
    if connection.dialect.name == "sqlite":
        return sqlite_schema(connection)
    return postgresql_schema(connection)


def postgresql_schema(connection: Connection) -> Schema:
    columns = text(
        "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, "
        "column_default FROM information_schema.columns WHERE table_schema = 'public'"
    )
    indexes = text("SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'")
    constraints = text(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace"
    )
    described: Schema = {}
    for query in (columns, indexes, constraints):
        for table, *facts in connection.execute(query):
            if table != "alembic_version":
                described.setdefault(table, set()).add(tuple(facts))
    return described


def sqlite_schema(connection: Connection) -> Schema:
    described: Schema = {}
    names = connection.execute(
        text("SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'alembic_version'")
    ).scalars()
    for name in list(names):
        facts = described.setdefault(name, set())
        for column in connection.execute(text(f"PRAGMA table_xinfo({name})")):
            facts.add(("column", *column[1:]))
        for _, index, unique, origin, partial in connection.execute(
            text(f"PRAGMA index_list({name})")
        ):
            columns = connection.execute(text(f"PRAGMA index_info({index})")).all()
            # Indexes of constraints are numbered by SQLite in order of creation.
            called = index if origin == "c" else origin
            facts.add(("index", called, unique, partial, *(row[2] for row in columns)))
        for key in connection.execute(text(f"PRAGMA foreign_key_list({name})")):
            facts.add(("foreign key", *key[2:]))
    return described


@pytest.mark.requirement("trap-migrations")
def test_migrations_lead_to_exactly_the_declared_tables(
    migrated: Database, create_empty: Callable[[], Database]
) -> None:

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, METADATA))

    assert migrated.write_now(differences) == []
    created = create_empty()
    created.write_now(METADATA.create_all)
    assert migrated.read(schema_of) == created.read(schema_of)


def test_every_module_with_a_table_is_known_to_the_migrations() -> None:
    tree = ast.parse(Path(tables_module.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    declaring = {
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
        for package in PACKAGES
        for file in (REPOSITORY / package).rglob("*.py")
        if "(SQLModel, table=True)" in file.read_text(encoding="utf-8")
    }
    assert declaring == imported


def test_every_constraint_and_index_has_a_name() -> None:
    for table in METADATA.sorted_tables:
        names = [constraint.name for constraint in table.constraints]
        names += [index.name for index in table.indexes]
        assert None not in names, table.name


def test_upgrade_again_changes_nothing(migrated: Database, database_url: str) -> None:
    before = migrated.read(schema_of)
    upgrade(database_url)
    assert migrated.read(schema_of) == before


def test_upgrade_keeps_what_is_stored(migrated: Database, database_url: str) -> None:
    migrated.write_now(
        lambda connection: connection.execute(
            text("INSERT INTO registry_counters VALUES ('registry_version', 7)")
        )
    )
    upgrade(database_url)
    kept = migrated.read(
        lambda connection: connection.execute(text("SELECT value FROM registry_counters")).scalar()
    )
    assert kept == 7


@pytest.mark.requirement("trap-migrations")
def test_database_of_a_newer_release_is_refused_and_untouched(
    migrated: Database, database_url: str
) -> None:
    migrated.write_now(
        lambda connection: connection.execute(text("UPDATE alembic_version SET version_num='9999'"))
    )
    with pytest.raises(NewerDatabaseError, match="9999"):
        upgrade(database_url)
    version = migrated.read(
        lambda connection: connection.execute(text("SELECT * FROM alembic_version")).scalar()
    )
    assert version == "9999"


@pytest.mark.requirement("trap-migrations")
def test_migration_that_fails_leaves_the_database_as_it_was(
    create_empty: Callable[[], Database],
) -> None:
    database = create_empty()
    # The last table the migration makes exists already, as something else.
    database.write_now(
        lambda connection: connection.execute(text("CREATE TABLE audit_sources (nonsense TEXT)"))
    )
    with pytest.raises(DatabaseError):
        database.write_now(upgrade_connection)
    assert set(database.read(schema_of)) == {"audit_sources"}


def test_upgrade_of_an_unsupported_database_says_so() -> None:
    with pytest.raises(UnsupportedDatabaseError, match="mysql"):
        upgrade("mysql+pymysql://db.example.com/countersign")


def test_upgrade_works_in_a_folder_with_a_percent_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "100%"
    folder.symlink_to(run.FOLDER)
    monkeypatch.setattr(run, "FOLDER", folder)
    upgrade(f"sqlite:///{tmp_path}/migrated.db")


@pytest.mark.requirement("trap-migrations")
@pytest.mark.processes
def test_processes_starting_together_migrate_once(database_url: str) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from countersign.migrations.run import upgrade; upgrade(sys.argv[1])",
        database_url,
    ]
    with ThreadPoolExecutor(3) as threads:
        ended = list(
            threads.map(
                lambda _: subprocess.run(  # noqa: S603 - our own interpreter and code
                    command, check=False, capture_output=True, text=True, cwd=REPOSITORY, timeout=60
                ),
                range(3),
            )
        )
    assert [(each.returncode, each.stderr) for each in ended] == [(0, "")] * 3
    database = Database.open(database_url)
    applied = text("SELECT count(*) FROM alembic_version")
    assert database.read(lambda connection: connection.execute(applied).scalar()) == 1
    database.close()
