"""Which thread of its worker ran an item, and when."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE enrichment_job_items
    ADD COLUMN thread smallint CHECK (thread > 0),
    ADD COLUMN begun_at timestamptz,
    ADD COLUMN finished_at timestamptz;
COMMENT ON COLUMN enrichment_job_items.thread IS
    'of the worker, from 1, in the last attempt; NULL before it began and in runs before 0011';
COMMENT ON COLUMN enrichment_job_items.begun_at IS 'when the thread began the last attempt';
COMMENT ON COLUMN enrichment_job_items.finished_at IS
    'when the thread handed its rows over to be stored, or gave up';
"""


def upgrade() -> None:
    op.execute(COLUMNS)


def downgrade() -> None:
    op.execute(
        "ALTER TABLE enrichment_job_items"
        " DROP COLUMN thread, DROP COLUMN begun_at, DROP COLUMN finished_at"
    )
