"""When the whole history of a series was compared with its vendor's."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

COMPARED = """
ALTER TABLE enrichment_status ADD COLUMN compared_at timestamptz;
COMMENT ON COLUMN enrichment_status.compared_at IS
    'when all stored bars were last compared with those of the vendor, once a month'
"""


def upgrade() -> None:
    op.execute(COMPARED)


def downgrade() -> None:
    op.execute("ALTER TABLE enrichment_status DROP COLUMN compared_at")
