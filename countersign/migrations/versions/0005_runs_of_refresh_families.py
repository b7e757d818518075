"""Which run a refresh token family serves, so that the end of the run ends the family.

Revision 0005.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FAMILIES = sa.table(
    "refresh_families",
    sa.column("family_id", sa.String),
    sa.column("granted", sa.LargeBinary),
    sa.column("invocation", sa.String),
)


def upgrade() -> None:
    """Add the column, and fill it from what each family was granted."""
    op.add_column("refresh_families", sa.Column("invocation", sa.String(length=64), nullable=True))
    op.create_index("ix_refresh_families_invocation", "refresh_families", ["invocation"])
    connection = op.get_bind()
    known = connection.execute(sa.select(FAMILIES.c.family_id, FAMILIES.c.granted)).all()
    for family_id, granted in known:
        connection.execute(
            sa.update(FAMILIES)
            .where(FAMILIES.c.family_id == family_id)
            .values(invocation=json.loads(granted)["invocation"])
        )
