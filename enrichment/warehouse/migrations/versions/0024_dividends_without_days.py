"""Dividends of symbols without daily bars are compared with the last close of their other bars, and
the factors of one symbol are planned once a connection.
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

# {before}: the close before the ex-date of `a`, on the share basis of the ex-date.
FACTORS = """
CREATE OR REPLACE VIEW adjustment_factors AS
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
    FROM applied a {before}
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
SELECT symbol, max(effective_date), 'infinity', 1, 1 FROM applied GROUP BY symbol
"""

CLOSE = """
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
WHERE a.amount > 0 AND b.symbol = a.symbol
"""

OF_DAYS = f"""
LEFT JOIN LATERAL (
    {CLOSE} AND b.timeframe = '1d' AND b.ts < a.effective_date::timestamp AT TIME ZONE 'UTC'
    ORDER BY b.ts DESC LIMIT 1
) {{name}} ON true
"""

# The last intraday bar of the days before, else the last week before. In Australia and New Zealand
# a session begins on the day before, in UTC.
OF_OTHERS = f"""
LEFT JOIN LATERAL (
    SELECT newest.close FROM unnest(ARRAY['5m', '15m', '30m', '1h', '4h', '1w'])
        WITH ORDINALITY AS others (timeframe, position)
    CROSS JOIN LATERAL (
        {CLOSE.replace("AS close", "AS close, b.ts")} AND b.timeframe = others.timeframe
            AND b.ts < a.effective_date::timestamp AT TIME ZONE 'UTC' - CASE
                WHEN others.timeframe = '1w' THEN interval '6 days'
                WHEN a.symbol ~ '[.](AX|XA|NZ)$' THEN interval '4 hours'
                ELSE interval '0' END
        ORDER BY b.ts DESC LIMIT 1
    ) newest
    WHERE days.close IS NULL ORDER BY others.timeframe = '1w', newest.ts DESC, position LIMIT 1
) others ON true
"""

BEFORE = f"""
{OF_DAYS.format(name="days")} {OF_OTHERS}
CROSS JOIN LATERAL (SELECT coalesce(days.close, others.close) AS close) before
"""


# Each connection plans the view's query once; planning takes longer than running it.
OF_SYMBOL = """
CREATE FUNCTION adjustment_factors_of(wanted text)
RETURNS TABLE (valid_from date, valid_to date, split_factor float8, total_factor float8)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT f.valid_from, f.valid_to, f.split_factor, f.total_factor
        FROM adjustment_factors f WHERE f.symbol = wanted;
END $$;
COMMENT ON FUNCTION adjustment_factors_of IS 'the rows of adjustment_factors of one symbol'
"""


def upgrade() -> None:
    op.execute(FACTORS.format(before=BEFORE))
    op.execute(OF_SYMBOL)
    # From the night on that follows in half a month, a thirtieth of the series is compared.
    op.execute("UPDATE enrichment_status SET compared_at = coalesce(compared_at, last_success_at)")


def downgrade() -> None:
    op.execute("DROP FUNCTION adjustment_factors_of")
    op.execute(FACTORS.format(before=OF_DAYS.format(name="before")))
