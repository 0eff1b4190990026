"""Days of a market that a job fetches whole, in place of one request a symbol."""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

MARKET_DAYS = """
CREATE TABLE market_days (
    job_id     uuid NOT NULL REFERENCES enrichment_jobs ON DELETE CASCADE,
    day        date NOT NULL,
    source     text NOT NULL,
    status     text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'fetched', 'unpublished', 'refused', 'failed', 'dropped')),
    attempts   integer NOT NULL DEFAULT 0,
    run_after  timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    symbols    integer,
    content    bytea,
    error      text,
    PRIMARY KEY (job_id, day)
);
CREATE INDEX market_days_pending ON market_days (job_id, day DESC) WHERE status = 'pending';
CREATE INDEX market_days_refused ON market_days (source, ended_at) WHERE status = 'refused';
CREATE INDEX market_days_content ON market_days (job_id) WHERE content IS NOT NULL;
COMMENT ON TABLE market_days IS
    'days of the US stock market that a job fetched with one request each';
COMMENT ON COLUMN market_days.status IS 'unpublished: no symbol has the day yet; '
    'refused: not in the vendor''s plan; dropped: another day could not be fetched';
COMMENT ON COLUMN market_days.symbols IS 'symbols of the job that the day has';
COMMENT ON COLUMN market_days.content IS
    'their bars (Arrow stream, Zstandard), until the job has ended';
"""

JOBS = """
ALTER TABLE enrichment_jobs
    ADD COLUMN market_days_planned_at timestamptz,
    ADD COLUMN market_days_pending boolean NOT NULL DEFAULT false;
ALTER TABLE enrichment_job_items ADD COLUMN market_days boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN enrichment_jobs.market_days_pending IS
    'whether items wait for days that are fetched of the whole market';
COMMENT ON COLUMN enrichment_job_items.market_days IS
    'whether its daily bars are taken from the days that the job fetches of the whole market'
"""


def upgrade() -> None:
    op.execute(MARKET_DAYS)
    op.execute(JOBS)


def downgrade() -> None:
    op.execute("ALTER TABLE enrichment_job_items DROP COLUMN market_days")
    op.execute(
        "ALTER TABLE enrichment_jobs DROP COLUMN market_days_pending, "
        "DROP COLUMN market_days_planned_at"
    )
    op.execute("DROP TABLE market_days")
