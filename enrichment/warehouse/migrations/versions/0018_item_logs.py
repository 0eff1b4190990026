"""The log lines of items that failed."""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

LOG_LINES = """
ALTER TABLE enrichment_job_items ADD COLUMN log_lines text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN enrichment_job_items.log_lines IS
    'the newest 100 lines that workers logged in attempts that failed'
"""


def upgrade() -> None:
    op.execute(LOG_LINES)


def downgrade() -> None:
    op.execute("ALTER TABLE enrichment_job_items DROP COLUMN log_lines")
