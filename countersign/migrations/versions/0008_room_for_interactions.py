"""Indexes by which authorization requests in progress make room, without reading the requests.

Revision 0008.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes."""
    op.create_index(
        "ix_interactions_finished_at_created_at_interaction_id",
        "interactions",
        ["finished_at", "created_at", "interaction_id"],
    )
    op.create_index(
        "ix_interactions_login_sid_network_created_at_interaction_id",
        "interactions",
        ["login_sid", "network", "created_at", "interaction_id"],
    )
