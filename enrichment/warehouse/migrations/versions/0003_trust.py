"""Versions of bars, causes of gaps, confirmations, and the inputs of the quality score."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

VERSIONS = """
ALTER TABLE bars ADD COLUMN known_from timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN bars.known_from IS 'since when the prices and the volume of the row stand';

CREATE TABLE bar_versions (
    symbol           text NOT NULL,
    timeframe        text NOT NULL,
    ts               timestamptz NOT NULL,
    open             double precision NOT NULL,
    high             double precision NOT NULL,
    low              double precision NOT NULL,
    close            double precision NOT NULL,
    volume           double precision NOT NULL,
    vwap             double precision,
    trades           double precision,
    taker_buy_volume double precision,
    known_from       timestamptz NOT NULL,
    known_until      timestamptz NOT NULL,
    PRIMARY KEY (symbol, timeframe, ts, known_until)
);
COMMENT ON TABLE bar_versions IS 'what bars said before their vendor changed them';
"""

GAPS = """
ALTER TABLE bar_gaps
    ADD COLUMN error text,
    ADD COLUMN tried_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN next_try_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN resolution text CHECK (resolution IN ('filled', 'no_trades')),
    ADD CHECK (cause IN ('unexplained', 'vendor_outage', 'failed_request', 'no_trades'));
UPDATE bar_gaps SET resolution = 'filled' WHERE resolved_at IS NOT NULL;
ALTER TABLE bar_gaps ADD CHECK ((resolution IS NULL) = (resolved_at IS NULL));
CREATE INDEX bar_gaps_open ON bar_gaps (timeframe, ts) WHERE resolved_at IS NULL;
CREATE INDEX bar_gaps_found ON bar_gaps (found_at);
"""

TRUST = """
CREATE TABLE bar_confirmations (
    symbol       text NOT NULL,
    timeframe    text NOT NULL,
    ts           timestamptz NOT NULL,
    check_name   text NOT NULL,
    confirmed_by text NOT NULL,
    reason       text NOT NULL,
    at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, timeframe, ts, check_name)
);
COMMENT ON TABLE bar_confirmations IS 'flagged bars that an analyst knows to be real';

ALTER TABLE enrichment_status
    ADD COLUMN feature_set text,
    ADD COLUMN evidence jsonb;
COMMENT ON COLUMN enrichment_status.evidence IS 'the counts that the quality score rests on';
"""

BACKFILL = """
ALTER TABLE enrichment_job_items ADD COLUMN backfill jsonb;
COMMENT ON COLUMN enrichment_job_items.backfill IS
    'from, to, and for every timeframe begun where the part still to be fetched ends';
"""


def upgrade() -> None:
    for part in (VERSIONS, GAPS, TRUST, BACKFILL):
        op.execute(part)


def downgrade() -> None:
    op.execute("ALTER TABLE enrichment_job_items DROP COLUMN backfill")
    op.execute("ALTER TABLE enrichment_status DROP COLUMN feature_set, DROP COLUMN evidence")
    op.execute("DROP TABLE bar_confirmations, bar_versions")
    op.execute("DROP INDEX bar_gaps_open, bar_gaps_found")
    op.execute(
        "ALTER TABLE bar_gaps DROP COLUMN error, DROP COLUMN tried_at, DROP COLUMN next_try_at,"
        " DROP COLUMN resolution"
    )
    op.execute("ALTER TABLE bar_gaps DROP CONSTRAINT IF EXISTS bar_gaps_cause_check")
    op.execute("ALTER TABLE bars DROP COLUMN known_from")
