"""What identity providers reported lately, also of people and sessions never seen here.

Revision 0011.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "reported_changes",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("identity_provider", sa.String(length=64), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_reported_changes"),
    )
    op.create_index("ix_reported_changes_expires_at", "reported_changes", ["expires_at"])
    op.create_index(
        "ix_reported_changes_identity_provider_not_after",
        "reported_changes",
        ["identity_provider", "not_after"],
    )
