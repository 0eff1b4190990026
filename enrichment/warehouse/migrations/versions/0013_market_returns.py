"""Returns of whole markets, and listings as the reason why a history begins late."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

MARKET_RETURNS = """
CREATE TABLE market_returns (
    market        text NOT NULL,
    timeframe     text NOT NULL,
    ts            timestamptz NOT NULL,
    median_return double precision NOT NULL,
    series        integer NOT NULL,
    computed_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (market, timeframe, ts)
);
COMMENT ON TABLE market_returns IS
    'median log return of the series of a market, for bars in which some return was an outlier';
COMMENT ON COLUMN market_returns.market IS 'exchange of stocks and ETFs (ISO 10383), or crypto';
COMMENT ON COLUMN market_returns.series IS 'number of series with a return in this bar';
"""

LIMITS = """
ALTER TABLE enrichment_status DROP CONSTRAINT enrichment_status_history_limit_check;
ALTER TABLE enrichment_status ADD CONSTRAINT enrichment_status_history_limit_check
    CHECK (history_limit IN ({limits}))
"""


def upgrade() -> None:
    op.execute(MARKET_RETURNS)
    op.execute(LIMITS.format(limits="'listed', 'plan', 'vendor'"))


def downgrade() -> None:
    op.execute(
        "UPDATE enrichment_status SET history_limit = 'vendor' WHERE history_limit = 'listed'"
    )
    op.execute(LIMITS.format(limits="'plan', 'vendor'"))
    op.execute("DROP TABLE market_returns")
