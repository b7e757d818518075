"""Which of our login sessions came from which session at the identity provider.

Revision 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "upstream_sessions",
        sa.Column("sid", sa.String(length=64), nullable=False),
        sa.Column("sub", sa.String(length=64), nullable=False),
        sa.Column("identity_provider", sa.String(length=64), nullable=False),
        sa.Column("upstream_sid", sa.String(length=512), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sid", name="pk_upstream_sessions"),
    )
    op.create_index("ix_upstream_sessions_expires_at", "upstream_sessions", ["expires_at"])
    op.create_index(
        "ix_upstream_sessions_identity_provider_upstream_sid",
        "upstream_sessions",
        ["identity_provider", "upstream_sid"],
    )
    op.create_index("ix_upstream_sessions_sub", "upstream_sessions", ["sub"])
