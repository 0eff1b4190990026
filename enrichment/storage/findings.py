"""What runs found in a series: flags, quarantined bars, and the ledger of gaps that heals itself.

A gap is asked for again at the next run, and then after 1, 2, 4 … days up to a month, until the bar
arrives or another source says that nobody traded. Nothing is filled with invented bars.
"""

from __future__ import annotations

import json

from sqlalchemy import Connection, text

from enrichment.series import Enriched


def write(conn: Connection, symbol: str, enriched: Enriched) -> None:
    """Replace the flags of the windows that were judged, keep quarantined bars, and bring the
    ledger up to date.
    """
    key = {"symbol": symbol, "timeframe": enriched.timeframe}
    still = {
        "at": [flag.ts for flag in enriched.flags],
        "checks": [flag.check for flag in enriched.flags],
        "gaps": [gap.ts for gap in enriched.gaps],
    }
    for download in enriched.downloads:
        if download.failure is None:
            window = {"start": download.window.start, "end": download.window.end}
            conn.execute(text(_CLEAR_FLAGS), {**key, **window, **still})
            conn.execute(text(_RESOLVE_GAPS), {**key, **window, **still})
    if enriched.flags:
        conn.execute(
            text(_ADD_FLAG),
            [
                {**key, "ts": f.ts, "check": f.check, "severity": f.severity, "detail": f.detail}
                for f in enriched.flags
            ],
        )
    _quarantine(conn, key, enriched)
    if enriched.gaps:
        conn.execute(
            text(_ADD_GAPS),
            {
                **key,
                "gaps": [gap.ts for gap in enriched.gaps],
                "causes": [gap.cause for gap in enriched.gaps],
                "errors": [gap.error for gap in enriched.gaps],
            },
        )


def _quarantine(conn: Connection, key: dict[str, str], enriched: Enriched) -> None:
    rows = [
        {
            **key,
            "ts": q.ts,
            "check": q.check,
            "detail": q.detail,
            "source": download.source,
            "bar": json.dumps(dict(q.bar)),
        }
        for download in enriched.downloads
        for q in download.checked.quarantined
    ]
    if rows:
        conn.execute(text(_QUARANTINE), rows)


def name_outages(conn: Connection) -> int:
    """Call a gap an outage of the vendor where at least 3 symbols, and half of those of its asset
    class and timeframe, miss the same bar; returns how many gaps were so explained.
    """
    return conn.execute(text(_OUTAGES)).rowcount


def confirm(
    conn: Connection, *, symbol: str, timeframe: str, ts: object, check: str, by: str, reason: str
) -> bool:
    """Mark a flagged bar as real: it is not raised again. False if there is no such flag."""
    values = {"symbol": symbol, "timeframe": timeframe, "ts": ts, "check": check}
    if conn.execute(text(_DROP_FLAG), values).rowcount == 0:
        return False
    conn.execute(text(_CONFIRM), {**values, "by": by, "reason": reason})
    return True


_CLEAR_FLAGS = """
DELETE FROM bar_flags WHERE symbol = :symbol AND timeframe = :timeframe
    AND ts >= :start AND ts < :end AND (ts, check_name) NOT IN (
        SELECT * FROM unnest(CAST(:at AS timestamptz[]), CAST(:checks AS text[])))
"""

_ADD_FLAG = """
INSERT INTO bar_flags (symbol, timeframe, ts, check_name, severity, detail)
VALUES (:symbol, :timeframe, :ts, :check, :severity, :detail)
ON CONFLICT (symbol, timeframe, ts, check_name)
DO UPDATE SET severity = EXCLUDED.severity, detail = EXCLUDED.detail
"""

_QUARANTINE = """
INSERT INTO bar_quarantine (symbol, timeframe, ts, check_name, detail, source, bar)
VALUES (:symbol, :timeframe, :ts, :check, :detail, :source, CAST(:bar AS jsonb))
ON CONFLICT (symbol, timeframe, ts, check_name, md5(bar::text)) DO NOTHING
"""

_RESOLVE_GAPS = """
UPDATE bar_gaps SET resolved_at = now(), resolution = 'filled'
WHERE symbol = :symbol AND timeframe = :timeframe AND resolved_at IS NULL
    AND ts >= :start AND ts < :end AND NOT ts = ANY(CAST(:gaps AS timestamptz[]))
"""

_ADD_GAPS = """
INSERT INTO bar_gaps AS g (symbol, timeframe, ts, cause, error, resolved_at, resolution)
SELECT :symbol, :timeframe, ts, cause, error,
    CASE WHEN cause = 'no_trades' THEN now() END,
    CASE WHEN cause = 'no_trades' THEN 'no_trades' END
FROM unnest(CAST(:gaps AS timestamptz[]), CAST(:causes AS text[]), CAST(:errors AS text[]))
    AS found (ts, cause, error)
ON CONFLICT (symbol, timeframe, ts) DO UPDATE SET
    attempts = g.attempts + 1, tried_at = now(), error = EXCLUDED.error,
    cause = CASE WHEN EXCLUDED.cause = 'unexplained' AND g.cause <> 'failed_request'
        THEN g.cause ELSE EXCLUDED.cause END,
    resolved_at = EXCLUDED.resolved_at, resolution = EXCLUDED.resolution,
    next_try_at = now() + least(interval '30 days', power(2, least(g.attempts, 10) - 1)
        * interval '1 day')
"""

_OUTAGES = """
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
UPDATE bar_gaps g SET cause = 'vendor_outage'
FROM open o JOIN outages USING (asset_class, timeframe, ts)
WHERE (g.symbol, g.timeframe, g.ts) = (o.symbol, o.timeframe, o.ts) AND g.cause = 'unexplained'
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
