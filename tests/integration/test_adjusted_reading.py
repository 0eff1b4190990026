"""Bars on the bases none, split and total, against computations of their own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import text

from enrichment.domain.bars import Floats, Timestamps
from enrichment.domain.corporate_actions import ActionKind, Adjustment, CorporateAction
from enrichment.domain.model import Timeframe
from enrichment.warehouse import corporate_actions
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.bars import BarDownloads, PriceCharts
from tests.helpers.recorded_series import daily_stocks

SPLIT, CASH, SPECIAL = ActionKind.SPLIT, ActionKind.CASH_DIVIDEND, ActionKind.SPECIAL_DIVIDEND
DAYS = np.arange("2024-06-03", "2024-06-17", dtype="datetime64[D]")
CLOSES = np.array([100.0, 102, 101, 103, 104, 104, 104, 26, 27, 26.5, 25, 26, 26, 26])
VOLUME = np.full(len(DAYS), 1000.0)

Event = tuple[ActionKind, str, float]


def store(
    db: Database, ts: Timestamps, closes: Floats, volume: Floats, until: str | None = None
) -> None:
    """A daily series of A whose feature sma_20 is twice the close, obv the volume."""
    rows = [
        {"ts": f"{day}T00:00Z", "close": float(close), "volume": float(size)}
        for day, close, size in zip(ts.astype("datetime64[D]"), closes, volume, strict=True)
    ]
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume, sma_20,"
                " obv, rsi_14) VALUES ('A', '1d', :ts, :close, :close, :close, :close, :volume,"
                " 2 * CAST(:close AS float8), :volume, 50)"
            ),
            rows,
        )
        conn.execute(
            text(
                "INSERT INTO enrichment_status (symbol, timeframe, status, adjusted_until)"
                " VALUES ('A', '1d', 'healthy', :until)"
            ),
            {"until": until},
        )


def record(db: Database, events: Sequence[Event]) -> None:
    actions = [
        CorporateAction("A", kind, date.fromisoformat(day), "polygon", ratio=value)
        if kind is SPLIT
        else CorporateAction("A", kind, date.fromisoformat(day), "polygon", amount=value)
        for kind, day, value in events
    ]
    with db.begin() as conn:
        corporate_actions.record(conn, actions)


def read(db: Database, adjustment: Adjustment, *columns: str) -> dict[str, Floats]:
    downloads = BarDownloads(db)
    extent = downloads.extent("A", Timeframe.D1, adjustment=adjustment)
    table = pa.Table.from_batches(list(downloads.chunks(extent, columns)))
    return {name: table[name].to_numpy() for name in columns}


def by_hand(closes: Floats, events: Sequence[Event], *, total: bool) -> Floats:
    """Adjusted closes, from the newest event back: each scales all that is before it."""
    adjusted = closes.copy()
    splits = {day: ratio for kind, day, ratio in events if kind is SPLIT}
    for kind, day, value in sorted(events, key=lambda event: event[1], reverse=True):
        before = np.datetime64(day) > DAYS
        if kind is SPLIT:
            adjusted[before] /= value
        elif total:
            same_day = [v for k, d, v in events if d == day and k is not SPLIT]
            base = closes[before][-1] / splits.get(day, 1.0)
            if value == same_day[0] and sum(same_day) < base:
                adjusted[before] *= 1 - sum(same_day) / base
    return adjusted


CASES: dict[str, list[Event]] = {
    "nothing": [],
    "a split": [(SPLIT, "2024-06-10", 4.0)],
    "a reverse split": [(SPLIT, "2024-06-10", 0.25)],
    "two splits in a week": [(SPLIT, "2024-06-10", 4.0), (SPLIT, "2024-06-13", 1.5)],
    "a dividend": [(CASH, "2024-06-06", 1.25)],
    "dividends around a split": [
        (CASH, "2024-06-05", 1.0),
        (SPLIT, "2024-06-10", 4.0),
        (CASH, "2024-06-12", 0.25),
    ],
    "a split on a dividend's day": [(SPLIT, "2024-06-10", 4.0), (CASH, "2024-06-10", 0.5)],
    "two dividends on a day": [(CASH, "2024-06-06", 1.0), (SPECIAL, "2024-06-06", 7.0)],
    "a dividend larger than the price": [(SPECIAL, "2024-06-06", 500.0), (CASH, "2024-06-12", 1.0)],
    "a split before the first bar": [(SPLIT, "2020-01-02", 7.0), (CASH, "2024-06-06", 1.0)],
    "a split on a holiday": [(SPLIT, "2024-06-08", 2.0)],
}


@pytest.mark.parametrize("events", CASES.values(), ids=CASES.keys())
def test_each_basis_equals_a_computation_of_its_own(db: Database, events: list[Event]) -> None:
    store(db, DAYS, CLOSES, VOLUME)
    record(db, events)
    shares = CLOSES / by_hand(CLOSES, events, total=False)
    raw = read(db, Adjustment.NONE, "close", "volume", "sma_20", "obv")
    assert raw["close"].tolist() == CLOSES.tolist()
    assert raw["volume"].tolist() == raw["obv"].tolist() == VOLUME.tolist()
    split = read(db, Adjustment.SPLIT, "close", "open", "volume", "sma_20", "obv", "rsi_14")
    np.testing.assert_allclose(split["close"], CLOSES / shares, rtol=1e-12)
    np.testing.assert_allclose(split["sma_20"], 2 * CLOSES / shares, rtol=1e-12)
    np.testing.assert_allclose(split["volume"], VOLUME * shares, rtol=1e-12)
    np.testing.assert_allclose(split["obv"], VOLUME * shares, rtol=1e-12)
    assert (split["rsi_14"] == 50).all()
    total = read(db, Adjustment.TOTAL, "close", "volume", "sma_20")
    expected = by_hand(CLOSES, events, total=True)
    np.testing.assert_allclose(total["close"], expected, rtol=1e-12)
    np.testing.assert_allclose(total["sma_20"], 2 * expected, rtol=1e-12)
    np.testing.assert_allclose(total["volume"], VOLUME * shares, rtol=1e-12)


@pytest.mark.parametrize("events", CASES.values(), ids=CASES.keys())
def test_a_series_adjusted_in_advance_reads_alike(db: Database, events: list[Event]) -> None:
    """Bars of an older version, adjusted for the splits up to 11 June."""
    until = np.datetime64("2024-06-11")
    known = [event for event in events if event[0] is SPLIT and np.datetime64(event[1]) <= until]
    adjusted = np.where(until > DAYS, by_hand(CLOSES, known, total=False), CLOSES)
    store(db, DAYS, adjusted, VOLUME * CLOSES / adjusted, until="2024-06-11T00:00Z")
    record(db, events)
    for adjustment, expected in (
        (Adjustment.NONE, CLOSES),
        (Adjustment.SPLIT, by_hand(CLOSES, events, total=False)),
        (Adjustment.TOTAL, by_hand(CLOSES, events, total=True)),
    ):
        rows = read(db, adjustment, "close", "volume")
        np.testing.assert_allclose(rows["close"], expected, rtol=1e-12)
    np.testing.assert_allclose(read(db, Adjustment.NONE, "volume")["volume"], VOLUME, rtol=1e-12)


def test_total_follows_the_vendors_adjusted_closes(db: Database) -> None:
    """Recorded: thirteen years of IBM with its dividends, and adjusted closes to two decimals."""
    ibm = daily_stocks()["IBM"]
    bars, adjusted = ibm.bars, ibm.adjusted_close
    factor = adjusted / bars.close
    steps = 1 - factor[:-1] / factor[1:]
    paid = np.flatnonzero(np.abs(steps) > 1e-3)
    days = bars.ts[paid + 1].astype("datetime64[D]")
    amounts = steps[paid] * bars.close[paid]
    store(db, bars.ts, bars.close, bars.volume)
    record(db, [(CASH, str(day), float(a)) for day, a in zip(days, amounts, strict=True)])
    total = read(db, Adjustment.TOTAL, "close")["close"]
    ratio = total / adjusted
    assert len(paid) > 40
    assert ratio.max() / ratio.min() - 1 < 0.01


def test_candles_are_adjusted_before_they_are_merged(db: Database) -> None:
    store(db, DAYS, CLOSES, VOLUME)
    record(db, CASES["dividends around a split"])
    start, end = datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC)
    charts = PriceCharts(db)
    for adjustment in Adjustment:
        frame = charts.candles(
            "A", Timeframe.D1, start, end, ["sma_20"], adjustment=adjustment
        ).frame
        rows = read(db, adjustment, "close", "volume", "sma_20")
        for name, column in rows.items():
            np.testing.assert_allclose(frame[name], column, rtol=1e-12)


def test_bars_keep_their_basis_whatever_their_timeframe(db: Database) -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
                " SELECT 'A', tf, ts, 40, 40, 40, 40, 10 FROM (VALUES"
                " ('1h', timestamptz '2024-06-11T19:00Z'), ('1h', '2024-06-12T13:00Z'),"
                " ('1w', '2024-06-03T00:00Z'), ('1w', '2024-06-10T00:00Z')) AS b (tf, ts)"
            )
        )
    record(db, [(SPLIT, "2024-06-12", 4.0)])
    for timeframe in (Timeframe.H1, Timeframe.W1):
        downloads = BarDownloads(db)
        extent = downloads.extent("A", timeframe, adjustment=Adjustment.SPLIT, limit=10)
        batches = list(downloads.chunks(extent, ["close"]))
        assert pa.Table.from_batches(batches)["close"].to_pylist() == [10.0, 40.0]


def test_a_split_that_comes_changes_nothing_today(db: Database) -> None:
    store(db, DAYS, CLOSES, VOLUME)
    tomorrow = datetime.now(UTC).date() + timedelta(days=2)
    record(db, [(SPLIT, tomorrow.isoformat(), 4.0)])
    assert read(db, Adjustment.SPLIT, "close")["close"].tolist() == CLOSES.tolist()
