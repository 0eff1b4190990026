"""Several schedules: a slot is keyed by its schedule and date."""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# Jobs of before belong to the one schedule of then.
UPGRADE = """
CREATE TABLE schedules (
    name  text PRIMARY KEY,
    since timestamptz NOT NULL
);
COMMENT ON COLUMN schedules.since IS 'when a scheduler first had it: earlier slots are not missed';
INSERT INTO schedules VALUES ('nightly', '1970-01-01T00:00:00Z');

ALTER TABLE enrichment_jobs ADD COLUMN schedule text;
UPDATE enrichment_jobs SET schedule = 'nightly' WHERE slot_date IS NOT NULL;
ALTER TABLE enrichment_jobs ADD CONSTRAINT enrichment_jobs_schedule_check
    CHECK ((schedule IS NULL) = (slot_date IS NULL));
DROP INDEX enrichment_jobs_slot;
CREATE UNIQUE INDEX enrichment_jobs_slot ON enrichment_jobs (schedule, slot_date)
    WHERE kind IN ('scheduled', 'catchup');
"""

# The older program has one slot a date: of several schedules' jobs the first keeps it.
DOWNGRADE = """
UPDATE enrichment_jobs j SET kind = 'manual', slot_date = NULL, schedule = NULL
WHERE EXISTS (SELECT 1 FROM enrichment_jobs o WHERE o.slot_date = j.slot_date
    AND (o.schedule <> 'nightly', o.created_at, o.job_id)
        < (j.schedule <> 'nightly', j.created_at, j.job_id));
DROP INDEX enrichment_jobs_slot;
CREATE UNIQUE INDEX enrichment_jobs_slot ON enrichment_jobs (slot_date)
    WHERE kind IN ('scheduled', 'catchup');
ALTER TABLE enrichment_jobs DROP COLUMN schedule;
DROP TABLE schedules;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
