"""Where a login under way was begun: at which registration elsewhere, from which network here.

Both are unknown for what was begun before: such a login elsewhere is refused, and such a request
counts for no network. Revision 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("upstream_logins", sa.Column("registration", sa.String(length=64), nullable=True))
    op.add_column("interactions", sa.Column("network", sa.String(length=64), nullable=True))
