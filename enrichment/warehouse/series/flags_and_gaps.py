"""Findings of validation: flags, quarantined bars and gaps.

An open gap is fetched again by the next run, and then after 1, 2, 4 … days up to a month, until its
bar arrives or another vendor reports no trades; then it is fetched once more, a month later. No bar
is ever interpolated.
"""

from __future__ import annotations

from sqlalchemy import Connection

from enrichment.domain.statuses import GapCause
from enrichment.warehouse.database import sql
from enrichment.warehouse.series import update_rows
from enrichment.warehouse.series.update_rows import FLAGS, GAPS, QUARANTINED, WINDOWS, Batch


def write(conn: Connection, batch: Batch) -> None:
    """Replace the flags and gaps of the windows that were validated, and add quarantined bars."""
    rows = {
        WINDOWS: update_rows.windows(batch),
        FLAGS: update_rows.flags(batch),
        GAPS: update_rows.gaps(batch),
        QUARANTINED: update_rows.quarantined(batch),
    }
    values = {name: value for kind in rows for name, value in kind.bind(rows[kind]).items()}
    for needed, statement in _STATEMENTS:
        if rows[needed]:
            conn.execute(sql(statement), values)


def explain_gaps_by_outages(conn: Connection) -> int:
    """Set a gap's cause to vendor outage where many symbols miss the same bar.

    That is at least 3 symbols, and half of those of the asset class and timeframe. Returns the
    number of gaps changed.
    """
    return conn.execute(sql(_OUTAGES)).rowcount


def confirm(
    conn: Connection, *, symbol: str, timeframe: str, ts: object, check: str, by: str, reason: str
) -> bool:
    """Confirm a flagged bar as real, so that it is not flagged again; False without such a flag."""
    values = {"symbol": symbol, "timeframe": timeframe, "ts": ts, "check": check}
    if conn.execute(sql(_DROP_FLAG), values).rowcount == 0:
        return False
    conn.execute(sql(_CONFIRM), {**values, "by": by, "reason": reason})
    return True


_CLEAR_FLAGS = f"""
DELETE FROM bar_flags f USING {WINDOWS.table}
WHERE (f.symbol, f.timeframe) = (windows.symbol, windows.timeframe)
    AND f.ts >= window_start AND f.ts < window_end
    AND (f.symbol, f.timeframe, f.ts, f.check_name) NOT IN (
        SELECT symbol, timeframe, ts, check_name FROM {FLAGS.table})
"""

_ADD_FLAGS = f"""
INSERT INTO bar_flags ({FLAGS.columns}) SELECT {FLAGS.columns} FROM {FLAGS.table}
ON CONFLICT (symbol, timeframe, ts, check_name)
DO UPDATE SET severity = EXCLUDED.severity, detail = EXCLUDED.detail
"""

_QUARANTINE = f"""
INSERT INTO bar_quarantine ({QUARANTINED.columns})
SELECT {QUARANTINED.columns} FROM {QUARANTINED.table}
ON CONFLICT (symbol, timeframe, ts, check_name, md5(bar::text)) DO NOTHING
"""

_RESOLVE_GAPS = f"""
UPDATE bar_gaps g SET resolved_at = now(), resolution = 'filled' FROM {WINDOWS.table}
WHERE (g.symbol, g.timeframe) = (windows.symbol, windows.timeframe)
    AND (g.resolved_at IS NULL OR g.resolution = '{GapCause.NO_TRADES}' AND EXISTS (
        SELECT 1 FROM bars b WHERE (b.symbol, b.timeframe, b.ts) = (g.symbol, g.timeframe, g.ts)))
    AND g.ts >= window_start AND g.ts < window_end
    AND (g.symbol, g.timeframe, g.ts) NOT IN (SELECT symbol, timeframe, ts FROM {GAPS.table})
"""

_ADD_GAPS = f"""
INSERT INTO bar_gaps AS g ({GAPS.columns}, resolved_at, resolution, next_try_at)
SELECT {GAPS.columns}, CASE WHEN cause = '{GapCause.NO_TRADES}' THEN now() END,
    CASE WHEN cause = '{GapCause.NO_TRADES}' THEN '{GapCause.NO_TRADES}' END,
    now() + CASE WHEN cause = '{GapCause.NO_TRADES}' THEN interval '30 days' ELSE interval '0' END
FROM {GAPS.table}
ON CONFLICT (symbol, timeframe, ts) DO UPDATE SET
    attempts = g.attempts + 1, tried_at = now(), error = EXCLUDED.error,
    cause = CASE WHEN EXCLUDED.cause = '{GapCause.UNEXPLAINED}'
        AND g.cause NOT IN ('{GapCause.FAILED_REQUEST}', '{GapCause.NO_TRADES}')
        THEN g.cause ELSE EXCLUDED.cause END,
    resolved_at = EXCLUDED.resolved_at, resolution = EXCLUDED.resolution,
    next_try_at = CASE
        WHEN EXCLUDED.resolution = g.resolution THEN 'infinity'
        WHEN EXCLUDED.resolution IS NOT NULL THEN EXCLUDED.next_try_at
        ELSE now() + least(interval '30 days', power(2, least(g.attempts, 10) - 1)
            * interval '1 day') END
"""

_STATEMENTS = (
    (WINDOWS, _CLEAR_FLAGS),
    (WINDOWS, _RESOLVE_GAPS),
    (FLAGS, _ADD_FLAGS),
    (GAPS, _ADD_GAPS),
    (QUARANTINED, _QUARANTINE),
)

_OUTAGES = f"""
WITH open AS (
    SELECT g.symbol, g.timeframe, g.ts, s.asset_class
    FROM bar_gaps g JOIN tracked_symbols s USING (symbol)
    WHERE g.resolved_at IS NULL AND g.found_at > now() - interval '2 days'
), series AS (
    SELECT asset_class, timeframe, count(*) AS n
    FROM tracked_symbols CROSS JOIN unnest(timeframes) AS timeframe WHERE active GROUP BY 1, 2
), outages AS (
    SELECT o.asset_class, o.timeframe, o.ts FROM open o JOIN series USING (asset_class, timeframe)
    GROUP BY o.asset_class, o.timeframe, o.ts, series.n
    HAVING count(*) >= 3 AND 2 * count(*) >= series.n
)
UPDATE bar_gaps g SET cause = '{GapCause.VENDOR_OUTAGE}'
FROM open o JOIN outages USING (asset_class, timeframe, ts)
WHERE (g.symbol, g.timeframe, g.ts) = (o.symbol, o.timeframe, o.ts)
    AND g.cause = '{GapCause.UNEXPLAINED}'
"""

_DROP_FLAG = """
DELETE FROM bar_flags WHERE symbol = :symbol AND timeframe = :timeframe AND ts = :ts
    AND check_name = :check
"""

_CONFIRM = """
INSERT INTO bar_confirmations (symbol, timeframe, ts, check_name, confirmed_by, reason)
VALUES (:symbol, :timeframe, :ts, :check, :by, :reason)
ON CONFLICT (symbol, timeframe, ts, check_name)
DO UPDATE SET confirmed_by = EXCLUDED.confirmed_by, reason = EXCLUDED.reason, at = now()
"""
