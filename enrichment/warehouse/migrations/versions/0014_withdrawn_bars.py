"""Stored bars that a vendor did not send again."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

DOUBTED = """
ALTER TABLE enrichment_status ADD COLUMN doubted timestamptz[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN enrichment_status.doubted IS
    'stored bars that the last run was not sent again; a second run without them removes them'
"""


def upgrade() -> None:
    op.execute(DOUBTED)


def downgrade() -> None:
    op.execute("ALTER TABLE enrichment_status DROP COLUMN doubted")
