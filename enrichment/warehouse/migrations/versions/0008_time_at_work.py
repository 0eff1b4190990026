"""A job's time at work, without the time between its end and its being resumed."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE enrichment_jobs
    ADD COLUMN worked_seconds double precision NOT NULL DEFAULT 0,
    ADD COLUMN resumed_at     timestamptz;
COMMENT ON COLUMN enrichment_jobs.worked_seconds IS
    'time at work before the job was last resumed';
COMMENT ON COLUMN enrichment_jobs.resumed_at IS
    'when the job was last resumed; NULL while it runs or ran for the first time';

CREATE FUNCTION job_seconds(j enrichment_jobs) RETURNS double precision LANGUAGE sql STABLE AS $$
    SELECT j.worked_seconds + extract(epoch FROM
        coalesce(j.completed_at, now()) - coalesce(j.resumed_at, j.started_at))::double precision
$$;
COMMENT ON FUNCTION job_seconds IS
    'time at work so far; NULL for a job that has not started';
"""

# Each end adds the time since the job was started or last resumed.
ENDING = """
CREATE OR REPLACE FUNCTION note_job_ending() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO enrichment_job_endings (kind, state, duration_seconds)
    VALUES (NEW.kind, NEW.state, coalesce(
        extract(epoch FROM NEW.completed_at - coalesce({since}, NEW.started_at)), 0));
    RETURN NULL;
END $$;
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(ENDING.format(since="NEW.resumed_at"))


def downgrade() -> None:
    op.execute(ENDING.format(since="NULL"))
    op.execute("DROP FUNCTION job_seconds(enrichment_jobs)")
    op.execute("ALTER TABLE enrichment_jobs DROP COLUMN worked_seconds, DROP COLUMN resumed_at")
