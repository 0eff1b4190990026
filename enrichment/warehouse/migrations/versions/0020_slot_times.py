"""When scheduled runs were due and are due next, as the schedulers know it."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

SLOT_TIMES = """
ALTER TABLE workers ADD COLUMN next_run_at timestamptz;
COMMENT ON COLUMN workers.next_run_at IS
    'when the next scheduled run is due, as of the last tick; NULL: this worker schedules none';
ALTER TABLE enrichment_jobs ADD COLUMN slot_at timestamptz;
COMMENT ON COLUMN enrichment_jobs.slot_at IS
    'when a scheduled or catch-up run was due; NULL: opened late, before this was recorded';
UPDATE enrichment_jobs SET slot_at = date_trunc('minute', created_at) WHERE kind = 'scheduled';
"""


def upgrade() -> None:
    op.execute(SLOT_TIMES)


def downgrade() -> None:
    op.execute("ALTER TABLE enrichment_jobs DROP COLUMN slot_at")
    op.execute("ALTER TABLE workers DROP COLUMN next_run_at")
