"""Logins at other sites, and what they gave for asking again.

Revision 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, and what a session keeps of its identity provider."""
    op.create_table(
        "upstream_logins",
        sa.Column("interaction_id", sa.String(length=64), nullable=False),
        sa.Column("state_digest", sa.String(length=64), nullable=False),
        sa.Column("browser_digest", sa.String(length=64), nullable=False),
        sa.Column("identity_provider", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("interaction_id", name="pk_upstream_logins"),
        sa.UniqueConstraint("state_digest", name="uq_upstream_logins_state_digest"),
    )
    op.create_index("ix_upstream_logins_expires_at", "upstream_logins", ["expires_at"])
    # Null: a session of before this release; its claims count to its end.
    op.add_column("login_sessions", sa.Column("claims_until", sa.BigInteger(), nullable=True))
    op.add_column("login_sessions", sa.Column("upstream", sa.LargeBinary(), nullable=True))
    op.add_column("login_sessions", sa.Column("asked_until", sa.BigInteger(), nullable=True))
