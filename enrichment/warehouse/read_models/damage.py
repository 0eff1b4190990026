"""Finds damaged series: one statement for each group of faults, aggregated by the server.

Prices count as different beyond 1e-4 of their value, volumes beyond 1e-3; where the compared series
come from different vendors, beyond 50 times that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import text

from enrichment.domain import calendars
from enrichment.domain.bars import to_datetime, to_datetime64
from enrichment.domain.damage import DamageKind, Finding
from enrichment.domain.exchanges import NEW_YORK, exchange_of
from enrichment.domain.model import AssetClass, JobKind, Timeframe
from enrichment.domain.statuses import GapCause
from enrichment.warehouse import closures
from enrichment.warehouse.database import Connection, Reader, database_now, fetch_all
from enrichment.warehouse.series.market import market_name

_WEEK = timedelta(weeks=1)
_MIN_WEEKENDS = 3


@dataclass(frozen=True, slots=True)
class _Row:
    """A finding as a query returns it."""

    kind: str
    symbol: str
    asset_class: str
    timeframe: str
    first: datetime
    last: datetime
    count: int
    example: str

    def finding(self, limits: _SeriesLimits) -> Finding:
        before = limits.unserved_before
        return Finding(
            DamageKind(self.kind),
            self.symbol,
            AssetClass(self.asset_class),
            Timeframe(self.timeframe),
            self.first,
            self.last,
            self.count,
            self.example,
            limits.series_from,
            None if before is None else datetime.fromisoformat(before),
        )


@dataclass(frozen=True, slots=True)
class _SeriesLimits:
    """Where a series begins or was to begin, and what the last repair was not served."""

    symbol: str
    timeframe: str
    series_from: datetime | None
    unserved_before: str | None


@dataclass(frozen=True, slots=True)
class _Weekends:
    """The bars of a daily series that lie on Saturdays and Sundays."""

    symbol: str
    asset_class: str
    timeframe: str
    first: datetime  # of the series
    last: datetime
    days: list[datetime]


class DamageReports(Reader):
    """The damage of the active symbols' series."""

    def find(
        self, symbols: Sequence[str] | None = None, now: datetime | None = None
    ) -> list[Finding]:
        """All findings, by symbol, timeframe and kind, from one snapshot of the database.

        Args:
            symbols: Only these; None for all.
            now: Bars that end later are running ones; None for the database's clock.
        """
        with self._db.begin() as conn:
            use_snapshot(conn)
            return find(conn, symbols, now)


def use_snapshot(conn: Connection) -> None:
    """Let the transaction, which has just begun, write nothing and see one state of the data."""
    conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))


def find(
    conn: Connection, symbols: Sequence[str] | None = None, now: datetime | None = None
) -> list[Finding]:
    """As `DamageReports.find`, in a transaction of the caller."""
    closures.refresh(conn)
    now = now or database_now(conn)
    values = {
        "symbols": None if symbols is None else list(symbols),
        "now": now,
        **_sessions(conn, now),
    }
    rows = [row for query in _QUERIES for row in fetch_all(conn, _Row, query, values)]
    rows += _closed_days_abroad(conn, values)
    damaged = {"symbols": sorted({row.symbol for row in rows})}
    limits = {(s.symbol, s.timeframe): s for s in fetch_all(conn, _SeriesLimits, _LIMITS, damaged)}
    findings = [row.finding(limits[row.symbol, row.timeframe]) for row in rows]
    return sorted(findings, key=lambda f: (f.symbol, f.timeframe.duration, f.kind))


def _closed_days_abroad(conn: Connection, values: Mapping[str, object]) -> list[_Row]:
    """Daily bars of most weekends, on which their exchange is closed: Mondays of a wrong zone.

    Single ones may be real: calendars lack the sessions that some exchanges hold on a Saturday.
    """
    found = []
    for row in fetch_all(conn, _Weekends, _WEEKEND_DAYS, values):
        days = np.array([to_datetime64(ts) for ts in row.days])
        market = calendars.market_of(row.symbol, AssetClass(row.asset_class))
        closed = days[~calendars.has_session(market, Timeframe.D1, days)]
        weeks = 1 + np.ptp(closed) // np.timedelta64(_WEEK) if len(closed) else 0
        if len(closed) >= max(_MIN_WEEKENDS, weeks / 2):
            day = to_datetime(closed[0])
            example = f"{day:%Y-%m-%d %H:%M}: the exchange is closed on this {day:%A}"
            outside, series = (
                DamageKind.OUTSIDE_SESSION,
                (row.symbol, row.asset_class, row.timeframe),
            )
            # The days between them are a day early, too.
            found.append(_Row(outside, *series, row.first, row.last, len(closed), example))
    return found


def _sessions(conn: Connection, now: datetime) -> dict[str, list[str] | list[datetime]]:
    """The market of each stock and ETF, and its sessions since the first stored bar; as columns.

    A market is named by its exchange, with a plus sign for extended hours.
    """
    first = conn.execute(text("SELECT min(first_ts) FROM enrichment_status")).scalar() or now
    symbols = conn.execute(text(_STOCKS)).scalars().all()
    exchanges = {symbol: exchange_of(symbol) for symbol in symbols}
    markets = {
        symbol: calendars.market_of(symbol, AssetClass.STOCK, Timeframe.M5) for symbol in symbols
    }
    sessions: list[tuple[str, datetime, datetime, datetime]] = []
    for market in {*exchanges.values(), *markets.values()}:
        labels = calendars.bar_starts(market, Timeframe.D1, first - _WEEK, now + 2 * _WEEK)
        columns = labels, *calendars.session_hours(labels, market)
        rows = zip(*([to_datetime(ts) for ts in column] for column in columns), strict=True)
        sessions += [(_name(market), *row) for row in rows]
    names = ("markets", "labels", "opens", "closes")
    return {
        "of_symbols": list(symbols),
        "of_days": [exchanges[symbol].mic for symbol in symbols],
        "of_hours": [_name(markets[symbol]) for symbol in symbols],
        "zones": [exchanges[symbol].timezone for symbol in symbols],
        **{name: [row[n] for row in sessions] for n, name in enumerate(names)},
    }


def _name(market: calendars.Market) -> str:
    return market_name(market) + "+" * calendars.is_extended(market)


_STOCKS = "SELECT symbol FROM tracked_symbols WHERE active AND asset_class <> 'crypto'"

# Of other exchanges not every session is known: calendars lack those on some Saturdays.
_SERIES = f"""
stocks AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:of_symbols AS text[]), CAST(:of_days AS text[]),
        CAST(:of_hours AS text[]), CAST(:zones AS text[])) AS s (symbol, days, hours, zone)
),
steps (timeframe, step) AS (VALUES ('5m', interval '5 minutes'), ('15m', interval '15 minutes'),
    ('30m', interval '30 minutes'), ('1h', interval '1 hour'), ('4h', interval '4 hours'),
    ('1d', interval '1 day'), ('1w', interval '7 days')),
series AS MATERIALIZED (
    SELECT e.symbol, t.asset_class, t.asset_class <> 'crypto' AS exchange, e.timeframe, steps.step,
        e.source, e.adjusted_until, e.evidence, e.bars, e.wanted_from, e.history_limit,
        greatest(e.history_from, e.first_ts) AS begins, e.first_ts, e.last_ts, stocks.zone,
        stocks.days <> '{NEW_YORK.mic}' AS abroad, step < interval '1 day' AS intraday,
        CASE WHEN step < interval '1 day' THEN stocks.hours ELSE stocks.days END AS market
    FROM tracked_symbols t JOIN enrichment_status e USING (symbol) JOIN steps USING (timeframe)
    LEFT JOIN stocks USING (symbol)
    WHERE t.active AND (CAST(:symbols AS text[]) IS NULL OR symbol = ANY(CAST(:symbols AS text[])))
)"""

_SESSIONS = """
sessions AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:markets AS text[]), CAST(:labels AS timestamptz[]),
        CAST(:opens AS timestamptz[]), CAST(:closes AS timestamptz[]))
        AS s (market, label, opens, closes)
)"""

_FINDINGS = """
SELECT kind, symbol, asset_class, timeframe, min(ts) AS first, max(ts) AS last, count(*) AS count,
    min(to_char(ts, 'YYYY-MM-DD HH24:MI') || ': ' || detail) AS example
FROM ({found}) found WHERE kind IS NOT NULL GROUP BY kind, symbol, asset_class, timeframe
"""

# Either side of a boundary may be the wrong one: the whole series is meant.
_OF_WHOLE_SERIES = f"""
SELECT f.kind, f.symbol, f.asset_class, f.timeframe, least(s.wanted_from, s.first_ts) AS first,
    s.last_ts AS last, f.count, f.example
FROM ({_FINDINGS}) f JOIN series s USING (symbol, timeframe)
"""

_LOCAL = "b.ts AT TIME ZONE s.zone"
_DAY = f"date_trunc('day', CASE WHEN s.intraday THEN {_LOCAL} ELSE b.ts AT TIME ZONE 'UTC' END)"
_OF_BAR = f"c.market = s.market AND c.label = {_DAY} AT TIME ZONE 'UTC'"

_STARTS = f"""
WITH {_SERIES}, {_SESSIONS}
{
    _FINDINGS.format(
        found=f'''
SELECT s.symbol, s.asset_class, s.timeframe, b.ts, CASE
    WHEN s.timeframe = '1w' THEN
        CASE WHEN b.ts <> date_trunc('week', b.ts) THEN '{DamageKind.WEEK_OFF_MONDAY}' END
    WHEN CASE WHEN s.exchange AND s.intraday
            THEN date_bin(s.step, {_LOCAL}, timestamp '2001-01-01') <> {_LOCAL}
            ELSE date_bin(s.step, b.ts, timestamptz '2001-01-01 00:00Z') <> b.ts END
        THEN '{DamageKind.OFF_GRID}'
    WHEN s.exchange AND c.label IS NULL AND s.abroad THEN NULL
    WHEN s.exchange AND (c.label IS NULL OR s.intraday AND b.ts + s.step <= c.opens)
        THEN '{DamageKind.OUTSIDE_SESSION}'
    WHEN s.intraday AND b.ts >= c.closes THEN '{DamageKind.AFTER_CLOSE}'
    WHEN CASE WHEN s.timeframe = '1d' AND s.exchange THEN c.closes ELSE b.ts + s.step END > :now
        THEN '{DamageKind.RUNNING_BAR}'
    END AS kind,
    CASE WHEN s.timeframe = '1w' THEN 'a week that starts on a ' || to_char(b.ts, 'FMDay')
        WHEN NOT s.exchange THEN 'no bar of ' || s.timeframe || ' starts here and has ended'
        WHEN c.label IS NULL THEN 'the exchange was closed on this day'
        ELSE 'the session is from ' || to_char(c.opens, 'HH24:MI') || ' to '
            || to_char(c.closes, 'HH24:MI') || ' UTC' END AS detail
FROM series s JOIN bars b USING (symbol, timeframe)
LEFT JOIN sessions c ON {_OF_BAR}
'''
    )
}
"""

_TOLERANCE = "CASE WHEN s.source IS DISTINCT FROM parts.source THEN 50 ELSE 1 END * 1e-4"


def _contradiction(longer: str, shorter: str, parts: str) -> str:
    """SQL: what of the longer bar its parts contradict; NULL if nothing.

    Open and close are NULL where the first or the last part is not stored.
    """
    bar = {"l": longer, "s": shorter, "parts": parts}
    fields = ("open", "close", "high", "low", "volume")
    differs = dict.fromkeys(fields, "abs({l}.{n} - {s}.{n}) > {tolerance} * abs({s}.{n})")
    beyond = {
        "high": "{l}.high < {s}.high * (1 - {tolerance})",
        "low": "{l}.low > {s}.low * (1 + {tolerance})",
        "volume": "{l}.volume < {s}.volume * (1 - {tolerance})",
    }
    cases = []
    for name in fields:
        tolerance = f"{_TOLERANCE} * 10" if name == "volume" else _TOLERANCE
        condition = differs[name]
        if name in beyond:
            condition = f"CASE WHEN {{s}}.complete THEN {condition} ELSE {beyond[name]} END"
        condition = condition.format(**bar, n=name, tolerance=f"({tolerance})")
        words = "'{n} ' || {l}.{n} || ', its {parts} give ' || {s}.{n}".format(**bar, n=name)
        cases.append(f"WHEN {condition} THEN {words}")
    return f"CASE {' '.join(cases)} END"


def _on_one_basis(last: str) -> str:
    """SQL: whether no split lies between the bases of a bar and of its parts.

    A bar is adjusted for the splits up to its own day, and in series of earlier versions for those
    up to `adjusted_until`. last: the last day of the bar.
    """
    return f"""NOT EXISTS (SELECT 1 FROM corporate_actions a
        WHERE a.symbol = s.symbol AND a.applies AND a.kind IN ('split', 'stock_dividend')
            AND a.effective_date > b.ts::date
            AND a.effective_date > least(coalesce(s.adjusted_until, '-infinity'),
                coalesce(parts.adjusted_until, '-infinity'))::date
            AND a.effective_date <= greatest(
                {last}, s.adjusted_until, parts.adjusted_until)::date)"""


_LAST_DAY = " AND ".join(
    f"abs(b.{n} - d.last_{n}) <= 1e-4 * abs(d.last_{n})" for n in ("open", "high", "low", "close")
)

_WEEKS = f"""
WITH {_SERIES}, {_SESSIONS}, weeks AS (
    SELECT market, date_trunc('week', label) AS week, min(label) AS first, max(label) AS last,
        count(*) AS days, max(closes) AS ends FROM sessions GROUP BY 1, 2
)
{
    _FINDINGS.format(
        found=f'''
SELECT symbol, asset_class, timeframe, ts, CASE
    WHEN ends > :now OR known_from < ends - interval '1 hour' THEN '{DamageKind.RUNNING_BAR}'
    WHEN contradiction IS NULL THEN NULL
    WHEN last_day THEN '{DamageKind.WEEK_IS_LAST_DAY}'
    ELSE '{DamageKind.WEEK_CONTRADICTS_DAYS}' END AS kind,
    coalesce(contradiction, 'stored before the week ended, on '
        || to_char(ends, 'YYYY-MM-DD HH24:MI') || ' UTC') AS detail
FROM (
    SELECT s.symbol, s.asset_class, s.timeframe, b.ts, b.known_from, k.ends,
        k.days > 1 AND {_LAST_DAY} AS last_day, CASE
            WHEN {_on_one_basis("k.last")} THEN {_contradiction("b", "d", "days")}
        END AS contradiction
    FROM series s JOIN bars b USING (symbol, timeframe)
    LEFT JOIN enrichment_status parts ON parts.symbol = s.symbol AND parts.timeframe = '1d'
    LEFT JOIN weeks ON weeks.market = s.market AND weeks.week = b.ts
    CROSS JOIN LATERAL (
        SELECT CASE WHEN s.exchange THEN weeks.first ELSE b.ts END AS first,
            CASE WHEN s.exchange THEN weeks.last ELSE b.ts + interval '6 days' END AS last,
            CASE WHEN s.exchange THEN weeks.days ELSE 7 END AS days,
            CASE WHEN s.exchange THEN weeks.ends ELSE b.ts + interval '7 days' END AS ends
    ) k
    CROSS JOIN LATERAL (
        SELECT count(*) = k.days AS complete, max(high) AS high, min(low) AS low,
            sum(volume) AS volume, max(open) FILTER (WHERE ts = k.first) AS open,
            max(close) FILTER (WHERE ts = k.last) AS close,
            max(open) FILTER (WHERE ts = k.last) AS last_open,
            max(high) FILTER (WHERE ts = k.last) AS last_high,
            max(low) FILTER (WHERE ts = k.last) AS last_low,
            max(close) FILTER (WHERE ts = k.last) AS last_close
        FROM bars WHERE symbol = s.symbol AND timeframe = '1d'
            AND ts >= b.ts AND ts < b.ts + interval '7 days'
    ) d
    WHERE s.timeframe = '1w' AND b.ts = date_trunc('week', b.ts)
) weeks'''
    )
}
"""

_HOURS = f"""
WITH {_SERIES}, {_SESSIONS}
{
    _FINDINGS.format(
        found=f'''
SELECT s.symbol, s.asset_class, s.timeframe, b.ts, '{DamageKind.CLOCK_HOURS}' AS kind,
    coalesce({_contradiction("b", "d", "half-hours")},
        'begins before the open at ' || to_char(c.opens, 'HH24:MI')
        || ' UTC, and bars from before it are stored') AS detail
FROM series s JOIN bars b USING (symbol, timeframe)
JOIN sessions c ON {_OF_BAR}
LEFT JOIN enrichment_status parts ON parts.symbol = s.symbol AND parts.timeframe = '30m'
CROSS JOIN LATERAL (
    SELECT greatest(b.ts, c.opens) AS since, least(b.ts + s.step, c.closes) AS until
) k
CROSS JOIN LATERAL (
    SELECT count(*) * interval '30 minutes' = k.until - k.since AS complete, max(high) AS high,
        min(low) AS low, sum(volume) AS volume, max(open) FILTER (WHERE ts = k.since) AS open,
        max(close) FILTER (WHERE ts = k.until - interval '30 minutes') AS close
    FROM bars WHERE symbol = s.symbol AND timeframe = '30m' AND parts.symbol IS NOT NULL
        AND ts >= k.since AND ts < k.until
) d
WHERE s.exchange AND s.timeframe IN ('1h', '4h') AND k.since < k.until
    AND (d.complete AND {_on_one_basis("c.label")}
            AND {_contradiction("b", "d", "half-hours")} IS NOT NULL
        OR b.ts < c.opens AND EXISTS (
            SELECT 1 FROM bars p WHERE p.symbol = s.symbol AND p.timeframe = s.timeframe
                AND p.ts >= b.ts - interval '6 hours' AND p.ts < b.ts))
'''
    )
}
"""

_HISTORY = f"""
WITH {_SERIES}
SELECT '{DamageKind.SHORT_HISTORY}' AS kind, symbol, asset_class, timeframe, wanted_from AS first,
    begins AS last, 1 AS count, 'asked from ' || to_char(wanted_from, 'YYYY-MM-DD')
        || ', begins ' || to_char(begins, 'YYYY-MM-DD') || ' (' || source || ')' AS example
FROM series
WHERE bars > 0 AND history_limit IS NULL AND begins - wanted_from > interval '7 days'
"""

_SOURCES = """
FROM enrichment_fetch_log l
WHERE l.symbol = g.symbol AND l.timeframe = g.timeframe AND l.success
    AND l.at BETWEEN g.resolved_at - interval '1 minute' AND g.resolved_at + interval '1 minute'
    AND l.window_start <= g.ts AND l.window_end > g.ts
"""

# A vendor that was not asked has 0 requests. Logs are pruned: without any, the density decides.
_GAPS = f"""
WITH {_SERIES}, closed AS MATERIALIZED (
    SELECT s.*, g.ts, g.resolved_at FROM series s JOIN bar_gaps g USING (symbol, timeframe)
    WHERE g.resolution = '{GapCause.NO_TRADES}'
), dense AS (
    SELECT symbol, timeframe, traded, expected FROM (
        SELECT DISTINCT symbol, timeframe, (evidence ->> 'expected')::float8 AS expected FROM closed
    ) one CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE volume > 0) AS traded FROM bars b
        WHERE b.symbol = one.symbol AND b.timeframe = one.timeframe
    ) bars WHERE traded >= 0.9 * expected
)
{
    _FINDINGS.format(
        found=f'''
SELECT g.symbol, g.asset_class, g.timeframe, g.ts, '{DamageKind.UNPROVEN_NO_TRADES}' AS kind,
    coalesce('closed as without trades, in a series with trades in ' || dense.traded || ' of '
        || dense.expected || ' bars', 'closed as without trades by vendors that were not asked')
        AS detail
FROM closed g LEFT JOIN dense USING (symbol, timeframe)
WHERE dense.traded IS NOT NULL OR EXISTS (SELECT 1 {_SOURCES})
    AND (SELECT count(DISTINCT source) {_SOURCES} AND l.requests > 0) < 2
'''
    )
}
"""

_IS_SANDBOX = "split_part({source}, ':', 1) = 'sandbox'"

_WEEKEND_DAYS = f"""
WITH {_SERIES}
SELECT s.symbol, s.asset_class, s.timeframe, s.first_ts AS first, s.last_ts AS last,
    array_agg(b.ts ORDER BY b.ts) AS days
FROM series s JOIN bars b USING (symbol, timeframe)
WHERE s.timeframe = '1d' AND s.abroad
    AND extract(isodow FROM b.ts AT TIME ZONE 'UTC') > 5
GROUP BY s.symbol, s.asset_class, s.timeframe, s.first_ts, s.last_ts
"""

_SANDBOX = f"""
WITH {_SERIES}, mixed AS (
    SELECT symbol, timeframe, max(at) FILTER (WHERE sandbox) AS sandbox_until,
        max(at) FILTER (WHERE NOT sandbox) AS real_until
    FROM (SELECT symbol, timeframe, at, {_IS_SANDBOX.format(source="source")} AS sandbox
        FROM enrichment_fetch_log WHERE success AND source IS NOT NULL AND bars > 0) log
    GROUP BY symbol, timeframe HAVING bool_or(sandbox) AND bool_or(NOT sandbox)
)
{
    _OF_WHOLE_SERIES.format(
        found=f'''
SELECT s.symbol, s.asset_class, s.timeframe, b.ts, '{DamageKind.SANDBOX_BARS}' AS kind,
    'close ' || b.close || ' is not from ' || s.source AS detail
FROM series s JOIN mixed m USING (symbol, timeframe) JOIN bars b USING (symbol, timeframe)
WHERE b.known_from <= CASE WHEN {_IS_SANDBOX.format(source="s.source")}
    THEN m.real_until ELSE m.sandbox_until END
'''
    )
}
"""

_BASES = f"""
WITH {_SERIES}
{
    _OF_WHOLE_SERIES.format(
        found=f'''
SELECT s.symbol, s.asset_class, s.timeframe, f.ts, '{DamageKind.TWO_BASES}' AS kind,
    f.detail || coalesce('; close ' || b.close || ' after ' || (
        SELECT p.close FROM bars p WHERE p.symbol = s.symbol AND p.timeframe = s.timeframe
            AND p.ts < f.ts ORDER BY p.ts DESC LIMIT 1), '') AS detail
FROM series s JOIN bar_flags f USING (symbol, timeframe)
LEFT JOIN bars b USING (symbol, timeframe, ts)
WHERE f.check_name = 'mixed_adjustment' OR f.check_name = 'split' AND f.ts <= s.adjusted_until
'''
    )
}
"""

# Those whose splits are known back to the first bar are put back by their next run.
_ADJUSTED = f"""
WITH {_SERIES}
SELECT '{DamageKind.ADJUSTED_PRICES}' AS kind, symbol, asset_class, timeframe,
    least(wanted_from, first_ts) AS first, last_ts AS last, bars AS count,
    'adjusted for splits up to ' || to_char(adjusted_until, 'YYYY-MM-DD') || ', of which '
        || CASE WHEN known.since IS NULL THEN 'none are' ELSE 'those before '
            || to_char(known.since, 'YYYY-MM-DD') || ' are not' END || ' known' AS example
FROM series CROSS JOIN LATERAL (
    SELECT min(covers_from) AS since FROM corporate_action_refreshes r
    WHERE r.symbol = series.symbol) known
WHERE exchange AND bars > 0 AND adjusted_until IS NOT NULL
    AND (known.since IS NULL OR known.since > first_ts::date)
"""

_QUERIES = (_STARTS, _WEEKS, _HOURS, _HISTORY, _GAPS, _SANDBOX, _BASES, _ADJUSTED)

_LIMITS = f"""
SELECT e.symbol, e.timeframe, least(e.wanted_from, e.first_ts) AS series_from, (
    SELECT i.backfill -> 'unserved' ->> e.timeframe
    FROM enrichment_job_items i JOIN enrichment_jobs j USING (job_id)
    WHERE i.symbol = e.symbol AND j.kind = '{JobKind.BACKFILL}'
        AND i.backfill -> 'repair' -> e.timeframe IS NOT NULL
    ORDER BY i.created_at DESC LIMIT 1) AS unserved_before
FROM enrichment_status e WHERE e.symbol = ANY(CAST(:symbols AS text[]))
"""
