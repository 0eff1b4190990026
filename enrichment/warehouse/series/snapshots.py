"""What is stored of series, read for many of them in one statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection

from enrichment.domain.bars import Floats, Timestamps, to_datetime64
from enrichment.domain.model import Severity, Timeframe
from enrichment.domain.series import SeriesSnapshot, StoredTail
from enrichment.pipeline.features import CUMULATIVE
from enrichment.pipeline.fetch_plan import OVERLAP
from enrichment.pipeline.quality import counts_against_score
from enrichment.warehouse.database import sql
from enrichment.warehouse.series.binary_copy import fetch
from enrichment.warehouse.series.upsert import FULL, PRICES, bars_of

Key = tuple[str, Timeframe]
COLUMNS = ("ts", *PRICES, *CUMULATIVE)  # what a run reads of a bar; the table's key carries them


@dataclass(frozen=True, slots=True)
class TailRequest:
    """A series' bars from `since` on, after so many before it that lend their past to them."""

    symbol: str
    timeframe: Timeframe
    since: datetime
    lookback: int


def read_snapshots(conn: Connection, keys: Sequence[Key], feature_set: str) -> list[SeriesSnapshot]:
    """What is known of each series without its bars.

    feature_set: of this version; a series whose values are another one's is not complete.
    """
    values = {
        "symbols": [symbol for symbol, _ in keys],
        "timeframes": [timeframe.value for _, timeframe in keys],
        "overlap": OVERLAP - 1,
    }
    found = {row.n: row for row in conn.execute(sql(_KNOWN), values)}
    rows = (found.get(n) for n in range(1, len(keys) + 1))
    return [SeriesSnapshot() if row is None else _known(row, feature_set) for row in rows]


def read_tails(conn: Connection, wanted: Sequence[TailRequest]) -> list[StoredTail]:
    """What is wanted of each series."""
    values = {
        "symbols": [one.symbol for one in wanted],
        "timeframes": [one.timeframe.value for one in wanted],
        "sinces": [one.since for one in wanted],
        "lookbacks": [one.lookback for one in wanted],
    }
    ts, columns = _in_order(
        *fetch(conn, _TAILS, values, ("n", *COLUMNS[1:]), full=("n", *FULL), order=None)
    )
    edges = np.searchsorted(columns["n"], np.arange(1, len(wanted) + 2))
    return [
        _tail(ts[first:last], {n: c[first:last] for n, c in columns.items()}, one)
        for one, first, last in zip(wanted, edges[:-1], edges[1:], strict=True)
    ]


def _in_order(ts: Timestamps, columns: dict[str, Floats]) -> tuple[Timestamps, dict[str, Floats]]:
    """The rows by series and time, as the server's plan mostly brings them without a sort."""
    n = columns["n"]
    later = (n[1:] > n[:-1]) | ((n[1:] == n[:-1]) & (ts[1:] > ts[:-1]))
    if later.all():
        return ts, columns
    order = np.lexsort((ts, n))
    return ts[order], {name: column[order] for name, column in columns.items()}


def read_whole(conn: Connection, symbol: str, timeframe: Timeframe) -> StoredTail:
    """All bars of a series."""
    values = {"symbol": symbol, "timeframe": timeframe.value}
    ts, columns = fetch(conn, _WHOLE, values, COLUMNS[1:])
    return StoredTail(bars_of(ts, columns))


def _tail(ts: Timestamps, columns: Mapping[str, Floats], wanted: TailRequest) -> StoredTail:
    bars = bars_of(ts, columns)
    if wanted.lookback == 0:
        return StoredTail(bars, without_lookback=True)
    before = int(np.searchsorted(ts, to_datetime64(wanted.since)))
    if before < wanted.lookback:  # nothing was left out: the tail begins with the series
        return StoredTail(bars)
    return StoredTail(bars, {name: float(columns[name][0]) for name in CUMULATIVE})


def _known(row: Any, feature_set: str) -> SeriesSnapshot:
    return SeriesSnapshot(
        bars=row.bars,
        first_ts=row.first_ts,
        last_ts=row.last_ts,
        overlap_from=row.overlap_from,
        history_from=row.history_from,
        source=row.source,
        adjusted=row.adjusted,
        gaps=_timestamps(row.gaps),
        gaps_due=_timestamps(row.due),
        flagged=frozenset(_objections(row)),
        newest_flagged=max(row.flag_ts, default=None),
        confirmed=frozenset(zip(row.confirmed_ts, row.confirmed_checks, strict=True)),
        no_trade_ts=frozenset(row.untraded),
        features_current=row.bars == 0 or row.feature_set == feature_set,
        coverage=None if row.cells is None else (row.cells, row.nulls),
    )


def _objections(row: Any) -> Iterator[tuple[datetime, str]]:
    flags = zip(row.flag_ts, row.flag_checks, row.flag_severities, strict=True)
    return (
        (ts, check)
        for ts, check, severity in flags
        if counts_against_score(check, Severity(severity))
    )


def _timestamps(moments: Sequence[datetime]) -> Timestamps:
    return np.array([to_datetime64(moment) for moment in moments], dtype="datetime64[us]")


_OF_W = "symbol = w.symbol AND timeframe = w.timeframe"

_KNOWN = f"""
SELECT w.n, s.bars, s.first_ts, s.last_ts, s.history_from, s.source, s.adjusted, s.feature_set,
    (s.evidence ->> 'feature_cells')::bigint AS cells,
    (s.evidence ->> 'feature_nulls')::bigint AS nulls,
    coalesce((SELECT ts FROM bars WHERE {_OF_W} ORDER BY ts DESC OFFSET :overlap LIMIT 1),
        s.first_ts) AS overlap_from,
    gaps.gaps, gaps.due, gaps.untraded,
    flags.ts AS flag_ts, flags.checks AS flag_checks, flags.severities AS flag_severities,
    confirmed.ts AS confirmed_ts, confirmed.checks AS confirmed_checks
FROM unnest(CAST(:symbols AS text[]), CAST(:timeframes AS text[]))
    WITH ORDINALITY AS w (symbol, timeframe, n)
JOIN enrichment_status s ON s.symbol = w.symbol AND s.timeframe = w.timeframe,
LATERAL (
    SELECT coalesce(array_agg(ts ORDER BY ts) FILTER (WHERE resolved_at IS NULL), '{{}}') AS gaps,
        coalesce(array_agg(ts ORDER BY ts)
            FILTER (WHERE resolved_at IS NULL AND next_try_at <= now()), '{{}}') AS due,
        coalesce(array_agg(ts) FILTER (WHERE resolution = 'no_trades'), '{{}}') AS untraded
    FROM bar_gaps WHERE {_OF_W} AND (resolved_at IS NULL OR resolution = 'no_trades')
) gaps, LATERAL (
    SELECT coalesce(array_agg(ts), '{{}}') AS ts, coalesce(array_agg(check_name), '{{}}') AS checks,
        coalesce(array_agg(severity), '{{}}') AS severities
    FROM bar_flags WHERE {_OF_W} AND severity <> 'info'
) flags, LATERAL (
    SELECT coalesce(array_agg(ts), '{{}}') AS ts, coalesce(array_agg(check_name), '{{}}') AS checks
    FROM bar_confirmations WHERE {_OF_W}
) confirmed
WHERE s.last_success_at IS NOT NULL
"""

_LISTED = ", ".join(COLUMNS)

_WHOLE = f"SELECT {_LISTED} FROM bars WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s"

_TAILS = f"""
SELECT w.n::float8 AS n, b.*
FROM unnest(%(symbols)s::text[], %(timeframes)s::text[], %(sinces)s::timestamptz[],
    %(lookbacks)s::int[]) WITH ORDINALITY AS w (symbol, timeframe, since, lookback, n),
LATERAL (
    SELECT {_LISTED} FROM bars WHERE {_OF_W} AND ts >= CASE WHEN lookback = 0 THEN since
        ELSE coalesce((
            SELECT ts FROM bars WHERE {_OF_W} AND ts < w.since
            ORDER BY ts DESC OFFSET w.lookback - 1 LIMIT 1), '-infinity') END
) b
"""
