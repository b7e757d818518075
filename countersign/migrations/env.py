"""What Alembic runs to migrate: on the connection and in the transaction it is given."""

from alembic import context

from countersign.migrations.tables import METADATA

if context.is_offline_mode():
    message = "migrations run on a database, through countersign.migrations.run"
    raise RuntimeError(message)

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite cannot alter a column: the table is copied
    compare_type=True,
)
context.run_migrations()
