"""Indexes by which cut off runs are found when they are forgotten, and counted by author.

Revision 0009.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes."""
    op.create_index("ix_revocations_kind_not_before", "revocations", ["kind", "not_before"])
    op.create_index("ix_revocations_author_at_ms", "revocations", ["author", "at_ms"])
