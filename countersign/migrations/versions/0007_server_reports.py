"""What each Gateway last found of the servers behind it.

Revision 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "server_reports",
        sa.Column("gateway", sa.String(length=63), nullable=False),
        sa.Column("server", sa.String(length=63), nullable=False),
        sa.Column("error", sa.String(length=256), nullable=False),
        sa.Column("era", sa.String(length=16), nullable=False),
        sa.Column("reported_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "server", name="pk_server_reports"),
    )
