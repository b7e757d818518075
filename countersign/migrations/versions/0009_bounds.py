"""An index by which rows of runs and tokens are found when they are forgotten.

Revision 0009.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_revocations_kind_not_before", "revocations", ["kind", "not_before"])
