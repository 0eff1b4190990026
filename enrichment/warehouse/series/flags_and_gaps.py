"""What runs found in a series: flags, quarantined bars, and the ledger of gaps that heals itself.

A gap is asked for again at the next run, and then after 1, 2, 4 … days up to a month, until the bar
arrives or another source says that nobody traded. Nothing is filled with invented bars.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Connection

from enrichment.domain.model import Task
from enrichment.domain.series import SeriesUpdate
from enrichment.warehouse.database import sql
from enrichment.warehouse.json_records import recordset


def write(conn: Connection, series: Sequence[tuple[Task, SeriesUpdate]]) -> None:
    """Replace the flags of the windows that were judged, keep quarantined bars, and bring the
    ledger up to date.
    """
    values = {
        "windows": recordset(
            {**_key(task, enriched), "start": d.window.start, "end": d.window.end}
            for task, enriched in series
            for d in enriched.fetches
            if d.replaces_findings
        ),
        "flags": recordset(_flags(series)),
        "gaps": recordset(
            {**_key(task, enriched), "ts": gap.ts, "cause": gap.cause, "error": gap.error}
            for task, enriched in series
            for gap in enriched.gaps
        ),
        "quarantined": recordset(_quarantined(series)),
    }
    for rows, statement in _STATEMENTS:
        if values[rows] != recordset([]):
            conn.execute(sql(statement), values)


def _key(task: Task, enriched: SeriesUpdate) -> dict[str, object]:
    return {"symbol": task.symbol, "timeframe": enriched.timeframe}


def _flags(series: Sequence[tuple[Task, SeriesUpdate]]) -> Iterable[dict[str, object]]:
    """A row per bar and check: where several downloads raised it, the last one's."""
    found: dict[tuple[object, ...], dict[str, object]] = {}
    for task, enriched in series:
        for f in enriched.flags:
            row = {"ts": f.ts, "check": f.check, "severity": f.severity, "detail": f.detail}
            found[task.symbol, enriched.timeframe, f.ts, f.check] = {**_key(task, enriched), **row}
    return found.values()


def _quarantined(series: Sequence[tuple[Task, SeriesUpdate]]) -> Iterator[dict[str, object]]:
    for task, enriched in series:
        for download in enriched.fetches:
            for q in download.validation.quarantined:
                yield {
                    **_key(task, enriched),
                    "ts": q.ts,
                    "check": q.check,
                    "detail": q.detail,
                    "source": download.source,
                    "bar": dict(q.bar),
                }


def explain_gaps_by_outages(conn: Connection) -> int:
    """Call a gap an outage of the vendor where at least 3 symbols, and half of those of its asset
    class and timeframe, miss the same bar; returns how many gaps were so explained.
    """
    return conn.execute(sql(_OUTAGES)).rowcount


def confirm(
    conn: Connection, *, symbol: str, timeframe: str, ts: object, check: str, by: str, reason: str
) -> bool:
    """Mark a flagged bar as real: it is not raised again. False if there is no such flag."""
    values = {"symbol": symbol, "timeframe": timeframe, "ts": ts, "check": check}
    if conn.execute(sql(_DROP_FLAG), values).rowcount == 0:
        return False
    conn.execute(sql(_CONFIRM), {**values, "by": by, "reason": reason})
    return True


_WINDOWS = """jsonb_to_recordset(CAST(:windows AS jsonb))
    AS w (symbol text, timeframe text, start timestamptz, "end" timestamptz)"""
_FLAGS = """jsonb_to_recordset(CAST(:flags AS jsonb))
    AS r (symbol text, timeframe text, ts timestamptz, "check" text, severity text, detail text)"""
_GAPS = """jsonb_to_recordset(CAST(:gaps AS jsonb))
    AS r (symbol text, timeframe text, ts timestamptz, cause text, error text)"""

_CLEAR_FLAGS = f"""
DELETE FROM bar_flags f USING {_WINDOWS}
WHERE (f.symbol, f.timeframe) = (w.symbol, w.timeframe) AND f.ts >= w.start AND f.ts < w."end"
    AND (f.symbol, f.timeframe, f.ts, f.check_name) NOT IN (
        SELECT r.symbol, r.timeframe, r.ts, r."check" FROM {_FLAGS})
"""

_ADD_FLAGS = f"""
INSERT INTO bar_flags (symbol, timeframe, ts, check_name, severity, detail) SELECT * FROM {_FLAGS}
ON CONFLICT (symbol, timeframe, ts, check_name)
DO UPDATE SET severity = EXCLUDED.severity, detail = EXCLUDED.detail
"""

_QUARANTINE = """
INSERT INTO bar_quarantine (symbol, timeframe, ts, check_name, detail, source, bar)
SELECT * FROM jsonb_to_recordset(CAST(:quarantined AS jsonb)) AS r (symbol text, timeframe text,
    ts timestamptz, "check" text, detail text, source text, bar jsonb)
ON CONFLICT (symbol, timeframe, ts, check_name, md5(bar::text)) DO NOTHING
"""

_RESOLVE_GAPS = f"""
UPDATE bar_gaps g SET resolved_at = now(), resolution = 'filled' FROM {_WINDOWS}
WHERE (g.symbol, g.timeframe) = (w.symbol, w.timeframe) AND g.resolved_at IS NULL
    AND g.ts >= w.start AND g.ts < w."end" AND (g.symbol, g.timeframe, g.ts) NOT IN (
        SELECT r.symbol, r.timeframe, r.ts FROM {_GAPS})
"""

_ADD_GAPS = f"""
INSERT INTO bar_gaps AS g (symbol, timeframe, ts, cause, error, resolved_at, resolution)
SELECT r.*, CASE WHEN cause = 'no_trades' THEN now() END,
    CASE WHEN cause = 'no_trades' THEN 'no_trades' END
FROM {_GAPS}
ON CONFLICT (symbol, timeframe, ts) DO UPDATE SET
    attempts = g.attempts + 1, tried_at = now(), error = EXCLUDED.error,
    cause = CASE WHEN EXCLUDED.cause = 'unexplained' AND g.cause <> 'failed_request'
        THEN g.cause ELSE EXCLUDED.cause END,
    resolved_at = EXCLUDED.resolved_at, resolution = EXCLUDED.resolution,
    next_try_at = now() + least(interval '30 days', power(2, least(g.attempts, 10) - 1)
        * interval '1 day')
"""

_STATEMENTS = (
    ("windows", _CLEAR_FLAGS),
    ("windows", _RESOLVE_GAPS),
    ("flags", _ADD_FLAGS),
    ("gaps", _ADD_GAPS),
    ("quarantined", _QUARANTINE),
)

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
