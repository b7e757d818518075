"""Audit events are found by their type, newest first; no search goes by their own time any more.

Revision 0010.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Put one index in the place of the other."""
    op.create_index("ix_audit_events_type_position", "audit_events", ["type", "position"])
    op.drop_index("ix_audit_events_timestamp_ms", table_name="audit_events")
