"""Snapshots and tails of stored series, read for many of them in one statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection

from enrichment.domain.bars import Floats, Timestamps, to_datetime64
from enrichment.domain.model import Severity, Timeframe
from enrichment.domain.series import SeriesSnapshot, StoredTail
from enrichment.domain.statuses import GapCause, HistoryLimit
from enrichment.pipeline.features import CUMULATIVE
from enrichment.pipeline.fetch_plan import OVERLAP
from enrichment.pipeline.quality import counts_against_score
from enrichment.warehouse.database import sql
from enrichment.warehouse.rows import JsonRows
from enrichment.warehouse.series.binary_copy import fetch
from enrichment.warehouse.series.upsert import PRICES, REQUIRED, bars_of

Key = tuple[str, Timeframe]
COLUMNS = ("ts", *PRICES, *CUMULATIVE)  # that a run reads; the primary key includes them


@dataclass(frozen=True, slots=True)
class TailRequest:
    """Asks for a series' bars from `since` on, and for some before them."""

    symbol: str
    timeframe: Timeframe
    since: datetime
    lookback: int  # bars before `since`, for the features' windows


def read_snapshots(conn: Connection, keys: Sequence[Key], feature_set: str) -> list[SeriesSnapshot]:
    """Each series without its bars, in the order of the keys.

    Args:
        conn: The connection to read from.
        keys: Symbol and timeframe of each series.
        feature_set: Of this version; features of a series with another one are not current.
    """
    rows = [{"n": n, "symbol": key[0], "timeframe": key[1]} for n, key in enumerate(keys)]
    values = {**_KEYS.bind(rows), "overlap": OVERLAP - 1}
    stored = {row.n: _snapshot(row, feature_set) for row in conn.execute(sql(_SNAPSHOTS), values)}
    return [stored.get(n) or SeriesSnapshot() for n in range(len(keys))]


def read_tails(conn: Connection, requests: Sequence[TailRequest]) -> list[StoredTail]:
    """The tail that each request asks for."""
    values = _REQUESTS.bind([{"n": n, **asdict(request)} for n, request in enumerate(requests)])
    names, not_null = ("n", *COLUMNS[1:]), ("n", *REQUIRED)
    ts, columns = _sorted(*fetch(conn, _TAILS, values, names, not_null=not_null, order=None))
    edges = np.searchsorted(columns["n"], np.arange(len(requests) + 1))
    return [
        _tail(ts[first:last], {n: c[first:last] for n, c in columns.items()}, request)
        for request, first, last in zip(requests, edges[:-1], edges[1:], strict=True)
    ]


def _sorted(ts: Timestamps, columns: dict[str, Floats]) -> tuple[Timestamps, dict[str, Floats]]:
    """The rows by request and time, the order in which the server's plan mostly returns them."""
    n = columns["n"]
    ascending = (n[1:] > n[:-1]) | ((n[1:] == n[:-1]) & (ts[1:] > ts[:-1]))
    if ascending.all():
        return ts, columns
    order = np.lexsort((ts, n))
    return ts[order], {name: column[order] for name, column in columns.items()}


def read_whole(conn: Connection, symbol: str, timeframe: Timeframe) -> StoredTail:
    """All bars of a series."""
    values = {"symbol": symbol, "timeframe": timeframe.value}
    ts, columns = fetch(conn, _WHOLE, values, COLUMNS[1:])
    return StoredTail(bars_of(ts, columns))


def _tail(ts: Timestamps, columns: Mapping[str, Floats], request: TailRequest) -> StoredTail:
    bars = bars_of(ts, columns)
    if request.lookback == 0:
        return StoredTail(bars, without_lookback=True)
    before = int(np.searchsorted(ts, to_datetime64(request.since)))
    if before < request.lookback:  # the tail begins with the series
        return StoredTail(bars)
    return StoredTail(bars, {name: float(columns[name][0]) for name in CUMULATIVE})


def _snapshot(row: Any, feature_set: str) -> SeriesSnapshot:
    return SeriesSnapshot(
        bars=row.bars,
        first_ts=row.first_ts,
        last_ts=row.last_ts,
        overlap_from=row.overlap_from,
        history_from=row.history_from,
        wanted_from=row.wanted_from,
        history_limit=None if row.history_limit is None else HistoryLimit(row.history_limit),
        history_due=row.history_due,
        source=row.source,
        adjusted=row.adjusted,
        gaps=_timestamps(row.gaps),
        gaps_due=_timestamps(row.gaps_due),
        flagged=frozenset(_flagged(row)),
        newest_flagged=max(row.flag_ts, default=None),
        confirmed=frozenset(zip(row.confirmed_ts, row.confirmed_checks, strict=True)),
        no_trade_ts=frozenset(row.no_trades),
        features_current=row.bars == 0 or row.feature_set == feature_set,
        coverage=None if row.cells is None else (row.cells, row.nulls),
    )


def _flagged(row: Any) -> Iterator[tuple[datetime, str]]:
    flags = zip(row.flag_ts, row.flag_checks, row.flag_severities, strict=True)
    return (
        (ts, check)
        for ts, check, severity in flags
        if counts_against_score(check, Severity(severity))
    )


def _timestamps(moments: Sequence[datetime]) -> Timestamps:
    return np.array([to_datetime64(moment) for moment in moments], dtype="datetime64[us]")


_OF_SERIES = "symbol = keys.symbol AND timeframe = keys.timeframe"

_KEYS = JsonRows("keys", "n integer, symbol text, timeframe text")

_SNAPSHOTS = f"""
SELECT keys.n, s.bars, s.first_ts, s.last_ts, s.history_from, s.source, s.adjusted, s.feature_set,
    s.wanted_from, s.history_limit,
    s.history_limit IS NULL OR s.history_checked_at <= now() - interval '30 days' AS history_due,
    (s.evidence ->> 'feature_cells')::bigint AS cells,
    (s.evidence ->> 'feature_nulls')::bigint AS nulls,
    coalesce((SELECT ts FROM bars WHERE {_OF_SERIES} ORDER BY ts DESC OFFSET :overlap LIMIT 1),
        s.first_ts) AS overlap_from,
    gaps.open AS gaps, gaps.due AS gaps_due, gaps.no_trades,
    flags.ts AS flag_ts, flags.checks AS flag_checks, flags.severities AS flag_severities,
    confirmed.ts AS confirmed_ts, confirmed.checks AS confirmed_checks
FROM {_KEYS.table}
JOIN enrichment_status s ON (s.symbol, s.timeframe) = (keys.symbol, keys.timeframe),
LATERAL (
    SELECT coalesce(array_agg(ts ORDER BY ts) FILTER (WHERE resolved_at IS NULL), '{{}}') AS open,
        coalesce(array_agg(ts ORDER BY ts)
            FILTER (WHERE next_try_at <= now()), '{{}}') AS due,
        coalesce(array_agg(ts)
            FILTER (WHERE resolution = '{GapCause.NO_TRADES}' AND next_try_at > now()),
            '{{}}') AS no_trades
    FROM bar_gaps WHERE {_OF_SERIES}
        AND (resolved_at IS NULL OR resolution = '{GapCause.NO_TRADES}')
) gaps, LATERAL (
    SELECT coalesce(array_agg(ts), '{{}}') AS ts, coalesce(array_agg(check_name), '{{}}') AS checks,
        coalesce(array_agg(severity), '{{}}') AS severities
    FROM bar_flags WHERE {_OF_SERIES} AND severity <> '{Severity.INFO}'
) flags, LATERAL (
    SELECT coalesce(array_agg(ts), '{{}}') AS ts, coalesce(array_agg(check_name), '{{}}') AS checks
    FROM bar_confirmations WHERE {_OF_SERIES}
) confirmed
WHERE s.last_success_at IS NOT NULL
"""

_LISTED = ", ".join(COLUMNS)

_WHOLE = f"SELECT {_LISTED} FROM bars WHERE symbol = :symbol AND timeframe = :timeframe"

_REQUESTS = JsonRows(
    "keys", "n integer, symbol text, timeframe text, since timestamptz, lookback integer"
)

_TAILS = f"""
SELECT keys.n::float8 AS n, tail.*
FROM {_REQUESTS.table}, LATERAL (
    SELECT {_LISTED} FROM bars WHERE {_OF_SERIES} AND ts >= CASE WHEN lookback = 0 THEN since
        ELSE coalesce((
            SELECT ts FROM bars WHERE {_OF_SERIES} AND ts < since
            ORDER BY ts DESC OFFSET lookback - 1 LIMIT 1), '-infinity') END
) tail
"""
