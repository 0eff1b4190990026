"""The ledger of corporate actions, the factors that follow from it, and raw prices."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

LEDGER = """
CREATE TABLE corporate_actions (
    symbol         text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('split', 'stock_dividend', 'cash_dividend',
        'special_dividend', 'spin_off', 'rename', 'delisting')),
    effective_date date NOT NULL,
    ratio          double precision,
    amount         double precision,
    currency       text,
    declared_date  date,
    record_date    date,
    pay_date       date,
    new_symbol     text,
    source         text NOT NULL,
    vendor_id      text,
    accounts       jsonb NOT NULL,
    applies        boolean NOT NULL,
    problem        text,
    disagreement   text,
    first_seen     timestamptz NOT NULL DEFAULT now(),
    last_seen      timestamptz NOT NULL DEFAULT now(),
    withdrawn_at   timestamptz,
    PRIMARY KEY (symbol, effective_date, kind)
);
CREATE INDEX corporate_actions_newest ON corporate_actions (effective_date DESC, symbol);
COMMENT ON TABLE corporate_actions IS
    'what happened to shares; prices are stored as traded, so an action changes no bar';
COMMENT ON COLUMN corporate_actions.effective_date IS
    'first day on the new basis: execution date of a split, ex-date of a dividend';
COMMENT ON COLUMN corporate_actions.ratio IS 'new shares for one old share';
COMMENT ON COLUMN corporate_actions.amount IS 'for one share of the effective date, in currency';
COMMENT ON COLUMN corporate_actions.source IS 'whose account the columns are; manual goes first';
COMMENT ON COLUMN corporate_actions.accounts IS 'source → its account of the action';
COMMENT ON COLUMN corporate_actions.applies IS 'whether it is part of adjustment_factors';
COMMENT ON COLUMN corporate_actions.problem IS 'why it does not apply, or what is doubtful in it';
COMMENT ON COLUMN corporate_actions.disagreement IS 'how the accounts of the sources differ';
COMMENT ON COLUMN corporate_actions.withdrawn_at IS 'since when no source lists it any more';

CREATE TABLE corporate_action_refreshes (
    source       text NOT NULL,
    symbol       text NOT NULL DEFAULT '',
    covers_from  date,
    attempted_at timestamptz,
    refreshed_at timestamptz,
    error        text,
    PRIMARY KEY (source, symbol)
);
COMMENT ON TABLE corporate_action_refreshes IS
    'when each source was last asked for actions: of the whole market (symbol empty), or of one';
"""

SERIES = """
ALTER TABLE enrichment_status
    ADD COLUMN adjusted_until timestamptz,
    ADD COLUMN splits_applied text NOT NULL DEFAULT '';
COMMENT ON COLUMN enrichment_status.adjusted_until IS
    'bars from before are adjusted for the splits up to this moment; NULL: all are as traded';
COMMENT ON COLUMN enrichment_status.splits_applied IS
    'the splits within the stored bars that their features were computed with';
UPDATE enrichment_status SET adjusted_until = last_success_at WHERE adjusted;
"""

FACTORS = """
CREATE AGGREGATE product(double precision) (sfunc = float8mul, stype = float8, initcond = '1');

CREATE VIEW adjustment_factors AS
WITH applied AS NOT MATERIALIZED (
    SELECT symbol, effective_date,
        product(ratio) FILTER (WHERE kind IN ('split', 'stock_dividend')) AS ratio,
        coalesce(sum(amount) FILTER
            (WHERE kind IN ('cash_dividend', 'special_dividend', 'spin_off')), 0) AS amount
    FROM corporate_actions
    WHERE applies AND effective_date <= (now() AT TIME ZONE 'UTC')::date
    GROUP BY symbol, effective_date
), steps AS NOT MATERIALIZED (
    SELECT a.symbol, a.effective_date, coalesce(a.ratio, 1) AS ratio,
        CASE WHEN a.amount > 0 AND a.amount < before.close THEN 1 - a.amount / before.close
            ELSE 1 END AS dividend
    FROM applied a LEFT JOIN LATERAL (
        -- The close before the ex-date, on the share basis of the ex-date.
        SELECT b.close / (
            SELECT product(s.ratio) FROM applied s
            WHERE s.symbol = a.symbol AND s.effective_date <= a.effective_date
                AND s.effective_date > greatest(b.ts, e.adjusted_until) AT TIME ZONE 'UTC'
        ) * (
            SELECT product(s.ratio) FROM applied s
            WHERE s.symbol = a.symbol AND s.effective_date > a.effective_date
                AND s.effective_date <= e.adjusted_until AT TIME ZONE 'UTC'
        ) AS close
        FROM bars b JOIN enrichment_status e USING (symbol, timeframe)
        WHERE a.amount > 0 AND b.symbol = a.symbol AND b.timeframe = '1d'
            AND b.ts < a.effective_date::timestamp AT TIME ZONE 'UTC'
        ORDER BY b.ts DESC LIMIT 1
    ) before ON true
), parts AS (
    SELECT symbol,
        lag(effective_date, 1, '-infinity') OVER (PARTITION BY symbol ORDER BY effective_date)
            AS valid_from,
        effective_date AS valid_to,
        product(ratio) OVER later AS shares,
        product(dividend) OVER later AS dividends
    FROM steps
    WINDOW later AS (PARTITION BY symbol ORDER BY effective_date DESC)
)
SELECT symbol, valid_from, valid_to, 1 / shares AS split_factor, dividends / shares AS total_factor
FROM parts
UNION ALL
SELECT symbol, max(effective_date), 'infinity', 1, 1 FROM steps GROUP BY symbol;
COMMENT ON VIEW adjustment_factors IS
    'price × factor is the price on today''s basis, for days with valid_from <= day < valid_to;'
    ' volume ÷ split_factor. Symbols without actions have no row: their factors are 1';
"""


def upgrade() -> None:
    op.execute(LEDGER)
    op.execute(SERIES)
    op.execute(FACTORS)


def downgrade() -> None:
    op.execute("DROP VIEW adjustment_factors; DROP AGGREGATE product(double precision)")
    op.execute("DROP TABLE corporate_actions, corporate_action_refreshes")
    op.execute(
        "ALTER TABLE enrichment_status DROP COLUMN adjusted_until, DROP COLUMN splits_applied"
    )
