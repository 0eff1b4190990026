"""What the night is judged by: a job's time at work, and bars that validation set apart."""

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

CAUSES = """
ALTER TABLE bar_gaps DROP CONSTRAINT bar_gaps_cause_check;
ALTER TABLE bar_gaps ADD CONSTRAINT bar_gaps_cause_check CHECK (cause IN ({causes}));
"""
BEFORE = "'unexplained', 'vendor_outage', 'failed_request', 'no_trades'"

# A bar that was sent and set apart explains its gap.
QUARANTINED = """
UPDATE bar_gaps g SET cause = 'quarantined', error = q.check_name || ': ' || q.detail
FROM bar_quarantine q
WHERE (q.symbol, q.timeframe, q.ts) = (g.symbol, g.timeframe, g.ts)
    AND g.cause = 'unexplained' AND g.resolved_at IS NULL
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(ENDING.format(since="NEW.resumed_at"))
    op.execute(CAUSES.format(causes=f"{BEFORE}, 'quarantined'"))
    op.execute(QUARANTINED)


def downgrade() -> None:
    op.execute("UPDATE bar_gaps SET cause = 'unexplained' WHERE cause = 'quarantined'")
    op.execute(CAUSES.format(causes=BEFORE))
    op.execute(ENDING.format(since="NULL"))
    op.execute("DROP FUNCTION job_seconds(enrichment_jobs)")
    op.execute("ALTER TABLE enrichment_jobs DROP COLUMN worked_seconds, DROP COLUMN resumed_at")
