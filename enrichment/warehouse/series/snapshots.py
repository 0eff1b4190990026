"""Snapshots and tails of stored series, read for many of them in one statement.

Columns are read by binary COPY, as numpy views of its bytes.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Dialect, text

from enrichment.domain.bars import Bars, Floats, Timestamps, to_datetime64
from enrichment.domain.corporate_actions import Split, within
from enrichment.domain.model import Severity, StockSession, Timeframe
from enrichment.domain.series import SeriesSnapshot, StoredTail
from enrichment.domain.statuses import GapCause, HistoryLimit
from enrichment.pipeline.features import CUMULATIVE
from enrichment.pipeline.fetch_plan import OVERLAP
from enrichment.pipeline.quality import counts_against_score
from enrichment.warehouse.corporate_actions import APPLIED_SPLITS
from enrichment.warehouse.database import JsonRows, sql

REQUIRED = ("open", "high", "low", "close", "volume")  # NOT NULL in the table
PRICES = (*REQUIRED, "vwap", "trades", "taker_buy_volume")
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, flags, length of an empty extension
COPY_TRAILER = b"\xff\xff"
_EPOCH = np.datetime64("2000-01-01", "us")

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
    return [stored[n] for n in range(len(keys))]


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


def splits_key(
    splits: Sequence[Split], last_ts: datetime | None, adjusted_until: datetime | None
) -> str:
    """The splits within a series' bars as text, which changes when its features have to.

    >>> from datetime import date
    >>> splits_key([(date(2020, 8, 31), 4.0)], datetime(2020, 9, 1), None)
    '2020-08-31:4.0'
    """
    shown = within(splits, last_ts, adjusted_until) if splits else []
    return ",".join(f"{day}:{ratio!r}" for day, ratio in shown)


def _snapshot(row: Any, feature_set: str) -> SeriesSnapshot:
    splits = list(zip(row.split_days, row.split_ratios, strict=True))
    if row.bars is None:
        return SeriesSnapshot(splits=splits)
    adjusted_until, restores_raw = row.adjusted_until, False
    if adjusted_until is not None and row.actions_from is not None:
        known = row.first_ts is None or row.actions_from <= row.first_ts.date()
        restores_raw = known and bool(within(splits, adjusted_until, row.first_ts))
        adjusted_until = None if known and not restores_raw else adjusted_until
    shown = splits_key(splits, row.last_ts, row.adjusted_until)
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
        adjusted_until=adjusted_until,
        splits=splits,
        disputed=[
            (day, dispute)
            for day, dispute in zip(row.split_days, row.disputes, strict=True)
            if dispute is not None
        ],
        restores_raw=restores_raw,
        gaps=_timestamps(row.gaps),
        gaps_due=_timestamps(sorted({*row.gaps_due} - {*row.rejected})),
        doubted=_timestamps(row.doubted),
        session=StockSession(row.session),
        compared_at=row.compared_at,
        rejected=_timestamps(row.rejected),
        flagged=frozenset(_flagged(row)),
        newest_flagged=max(row.flag_ts, default=None),
        confirmed=frozenset(zip(row.confirmed_ts, row.confirmed_checks, strict=True)),
        no_trade_ts=frozenset(row.no_trades),
        features_current=row.bars == 0
        or (row.feature_set == feature_set and row.splits_applied == shown and not restores_raw),
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


def bars_of(ts: Timestamps, columns: Mapping[str, Floats]) -> Bars:
    """Bars of the columns PRICES, as `fetch` returns them."""
    return Bars(ts, *(columns[name] for name in PRICES))


def fetch(
    conn: Connection,
    query: str,
    values: Mapping[str, object],
    numbers: Sequence[str],
    *,
    labels: Sequence[str] = (),
    not_null: Container[str] = (),
    order: str | None = "ts",
) -> tuple[Timestamps, dict[str, NDArray[Any]]]:
    """The rows of a query as columns of equal length.

    numpy reads COPY's bytes as one array of records, since no field is NULL and all rows have the
    same length: the server replaces a missing number by NaN and pads labels to the longest one.

    Args:
        conn: The connection to read from, inside its transaction.
        query: Selects `ts` (timestamptz), numbers and labels, with `:name` for parameters.
        values: Its parameters.
        numbers: Its float8 columns.
        labels: Its text columns.
        not_null: Numbers that are never NULL.
        order: Columns to sort by; None for the order in which the server returns the rows.

    Returns:
        `ts` (datetime64[us], UTC), and the other columns by name: numbers as float64 (NULL as NaN),
        labels as objects (str without trailing spaces, NULL as None).
    """
    selected = ["ts", *(n if n in not_null else _OR_NAN.format(n=n) for n in numbers)]
    listed = ", ".join(selected + [_PADDED.format(n=n) for n in labels])
    sorting = "" if order is None else f" ORDER BY {order}"
    driver: Any = conn.connection.driver_connection
    out = BytesIO()
    with driver.cursor() as cursor:
        bound = cursor.mogrify(_in_driver_style(query, conn.dialect), values).decode()
        cursor.copy_expert(
            f"COPY (SELECT {listed} FROM ({bound}) AS selected{sorting}) TO STDOUT BINARY", out
        )
    body = memoryview(out.getbuffer())[len(COPY_HEADER) : -len(COPY_TRAILER)]
    rows = np.frombuffer(body, dtype=_row_type(body, numbers, labels))
    ts = _EPOCH + rows["ts"].astype("i8").astype("timedelta64[us]")
    columns: dict[str, NDArray[Any]] = {name: rows[name].astype("f8") for name in numbers}
    return ts, columns | {name: _unpadded(rows[name]) for name in labels}


_OR_NAN = "coalesce({n}, 'NaN') AS {n}"
_PADDED = """rpad(coalesce({n}, ''), coalesce(length({n}) - octet_length({n}), 0)
    + coalesce(max(octet_length({n})) OVER (), 0)) AS {n}"""


@lru_cache(maxsize=256)
def _in_driver_style(query: str, dialect: Dialect) -> str:
    """The query with %(name)s for its values."""
    return str(text(query).compile(dialect=dialect))


def _row_type(body: memoryview, numbers: Sequence[str], labels: Sequence[str]) -> np.dtype[Any]:
    """The fields of COPY's rows, each behind its length, as the first row has them."""
    fields = [("fields", ">i2"), ("ts_length", ">i4"), ("ts", ">i8")]
    for name in numbers:
        fields += [(f"{name}_length", ">i4"), (name, ">f8")]
    for name in labels:
        at = np.dtype(fields).itemsize
        size = int.from_bytes(body[at : at + 4], "big")
        fields += [(f"{name}_length", ">i4"), (name, f"S{size}")]
    return np.dtype(fields)


def _unpadded(column: NDArray[np.bytes_]) -> NDArray[np.object_]:
    padded, codes = np.unique(column, return_inverse=True)
    labels = [label.decode().rstrip(" ") or None for label in padded]
    return np.array(labels, dtype=object)[codes]


_OF_SERIES = "symbol = keys.symbol AND timeframe = keys.timeframe"

_KEYS = JsonRows("keys", "n integer, symbol text, timeframe text")

_SNAPSHOTS = f"""
SELECT keys.n, s.bars, s.first_ts, s.last_ts, s.history_from, s.source, s.feature_set,
    (SELECT min(covers_from) FROM corporate_action_refreshes
        WHERE s.adjusted_until IS NOT NULL AND symbol = keys.symbol) AS actions_from,
    s.adjusted_until, s.splits_applied, splits.days AS split_days, splits.ratios AS split_ratios,
    splits.disputes,
    s.wanted_from, s.history_limit, s.doubted, s.compared_at, s.session,
    ARRAY(SELECT ts FROM bar_rejections WHERE symbol = keys.symbol
        AND timeframe = keys.timeframe ORDER BY ts) AS rejected,
    s.history_limit IS NULL OR s.history_checked_at <= now() - interval '30 days' AS history_due,
    (s.evidence ->> 'feature_cells')::bigint AS cells,
    (s.evidence ->> 'feature_nulls')::bigint AS nulls,
    coalesce((SELECT ts FROM bars WHERE {_OF_SERIES} ORDER BY ts DESC OFFSET :overlap LIMIT 1),
        s.first_ts) AS overlap_from,
    gaps.open AS gaps, gaps.due AS gaps_due, gaps.no_trades,
    flags.ts AS flag_ts, flags.checks AS flag_checks, flags.severities AS flag_severities,
    confirmed.ts AS confirmed_ts, confirmed.checks AS confirmed_checks
FROM {_KEYS.table}
LEFT JOIN enrichment_status s ON (s.symbol, s.timeframe) = (keys.symbol, keys.timeframe)
    AND s.last_success_at IS NOT NULL,
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
) confirmed, LATERAL (
    SELECT coalesce(array_agg(effective_date), '{{}}') AS days,
        coalesce(array_agg(ratio), '{{}}') AS ratios,
        coalesce(array_agg(disagreement), '{{}}') AS disputes
    FROM ({APPLIED_SPLITS.format(symbol="keys.symbol")}) days
) splits
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
