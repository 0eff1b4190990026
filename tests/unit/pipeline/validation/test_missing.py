"""Which bars are missing, against exchange_calendars asked directly, and which nobody traded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

import exchange_calendars
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars, Floats, Timestamps
from enrichment.domain.model import AssetClass, Severity, Timeframe
from enrichment.pipeline.reconcile import source_disagreement
from enrichment.pipeline.validation.missing import classify_missing, missing_bars

STOCK, CRYPTO = AssetClass.STOCK, AssetClass.CRYPTO
M5, H1, D1 = Timeframe.M5, Timeframe.H1, Timeframe.D1


@cache
def xnys() -> exchange_calendars.ExchangeCalendar:
    return exchange_calendars.get_calendar("XNYS", start="1999-01-01", end="2026-12-31")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def sessions(first: str, last: str) -> Timestamps:
    labels = xnys().sessions_in_range(first, last)
    return np.asarray(labels.to_numpy(dtype="datetime64[us]"))


def regular(timeframe: Timeframe, first: str, last: str) -> Timestamps:
    """Bars of the regular sessions, from the exchange's opening on."""
    index = xnys().trading_index(first, last, timeframe.duration, closed="left", intervals=False)
    return np.asarray(index.tz_localize(None).to_numpy(dtype="datetime64[us]"))


@settings(max_examples=40, deadline=None)
@given(year=st.integers(2000, 2025), data=st.data())
def test_holidays_and_half_days_are_never_gaps(year: int, data: st.DataObject) -> None:
    expected = sessions(f"{year}-01-01", f"{year}-12-31")
    lost = sorted(data.draw(st.sets(st.integers(0, len(expected) - 1), max_size=30)))
    start, now = at(f"{year}-01-01"), at(f"{year + 1}-01-01")
    gaps = missing_bars(STOCK, D1, np.delete(expected, lost), start, now)
    assert gaps.tolist() == expected[lost].tolist()


@settings(max_examples=40, deadline=None)
@given(symbol=st.sampled_from(["AAPL", "GOOG", "FB", "MSFT"]), data=st.data())
def test_sessions_removed_from_recorded_bars_are_exactly_the_gaps(
    stocks: dict[str, Bars], symbol: str, data: st.DataObject
) -> None:
    ts = stocks[symbol].ts
    lost = sorted(data.draw(st.sets(st.integers(0, len(ts) - 1), max_size=50)))
    start, now = at(str(ts[0])[:10]), at("2013-03-02")
    gaps = missing_bars(STOCK, D1, np.delete(ts, lost), start, now)
    assert gaps.tolist() == ts[lost].tolist()


@settings(max_examples=30, deadline=None)
@given(timeframe=st.sampled_from([M5, Timeframe.M15, Timeframe.M30]), data=st.data())
def test_intraday_gaps_keep_to_the_sessions_hours(
    timeframe: Timeframe, data: st.DataObject
) -> None:
    expected = regular(timeframe, "2025-11-24", "2025-12-26")  # two half-days, two holidays
    lost = sorted(data.draw(st.sets(st.integers(0, len(expected) - 1), max_size=30)))
    start, now = at("2025-11-24"), at("2025-12-27")
    gaps = missing_bars(STOCK, timeframe, np.delete(expected, lost), start, now)
    assert gaps.tolist() == expected[lost].tolist()


def test_hourly_gaps_are_aligned_hours_that_touch_the_session() -> None:
    index = xnys().sessions_in_range("2025-10-27", "2025-11-28")
    opens = (xnys().session_open(day).floor("h").tz_localize(None) for day in index)
    closes = (xnys().session_close(day).tz_localize(None) for day in index)
    hours = [
        np.arange(*map(np.datetime64, both), np.timedelta64(1, "h"))
        for both in zip(opens, closes, strict=True)
    ]
    everything = missing_bars(
        STOCK, H1, np.empty(0, "datetime64[us]"), at("2025-10-27"), at("2025-11-29")
    )
    assert everything.tolist() == np.concatenate(hours).astype("datetime64[us]").tolist()
    assert len(hours[-1]) == 4  # the day after Thanksgiving ends at 13:00
    extended = np.append(everything, np.datetime64("2025-11-25T23:00", "us"))
    assert len(missing_bars(STOCK, H1, extended, at("2025-10-27"), at("2025-11-29"))) == 0


@pytest.mark.parametrize("timeframe", [M5, H1, D1])
def test_crypto_never_closes(timeframe: Timeframe) -> None:
    step = np.timedelta64(timeframe.duration)
    every = np.arange(np.datetime64("2025-12-20", "us"), np.datetime64("2025-12-30", "us"), step)
    start, now = at("2025-12-20"), at("2025-12-30")
    assert len(missing_bars(CRYPTO, timeframe, every, start, now)) == 0
    christmas = every.astype("datetime64[D]") == np.datetime64("2025-12-25")
    gaps = missing_bars(CRYPTO, timeframe, every[~christmas], start, now)
    assert gaps.tolist() == every[christmas].tolist()


def hours(count: int) -> Timestamps:
    return np.datetime64("2024-01-01", "us") + np.arange(count) * np.timedelta64(1, "h")


def classified(
    present: np.ndarray, volume: Floats | None = None, timeframe: Timeframe = H1
) -> tuple[list[int], list[int]]:
    """Rows of gaps and of untraded bars among hours of which those present are stored."""
    ts = np.datetime64("2024-01-01", "us") + np.arange(len(present)) * np.timedelta64(
        timeframe.duration
    )
    traded = np.ones(len(present)) if volume is None else volume
    parts = classify_missing(ts[~present], ts[present], traded[present], CRYPTO, timeframe)
    gaps, untraded = (np.searchsorted(ts, part).tolist() for part in parts)
    return gaps, untraded


def test_a_missing_bar_of_a_dense_series_is_a_gap() -> None:
    present = np.ones(400, dtype=bool)
    present[[50, 200, 201, 202]] = False
    assert classified(present) == ([50, 200, 201, 202], [])


@pytest.mark.parametrize("timeframe", [M5, H1, D1])
def test_scattered_missing_bars_of_a_thin_series_are_untraded(
    timeframe: Timeframe,
) -> None:
    present = np.random.default_rng(1).random(600) < 0.5
    present[[0, -1]] = True
    absent = np.flatnonzero(~present).tolist()
    assert classified(present, timeframe=timeframe) == ([], absent)


def test_an_outage_of_a_thin_series_is_a_gap() -> None:
    present = np.random.default_rng(1).random(600) < 0.5
    present[[0, -1, 299, 340]] = True
    present[300:340] = False
    gaps, untraded = classified(present)
    assert gaps == list(range(300, 340))
    assert len(gaps) + len(untraded) == np.count_nonzero(~present)


def test_a_bar_missing_next_to_high_volume_is_a_gap() -> None:
    present = np.random.default_rng(1).random(600) < 0.5
    present[[0, -1, 299, 301]] = True
    present[300] = False
    volume = np.ones(600)
    volume[301] = 4.0
    gaps, _ = classified(present, volume)
    assert 300 in gaps
    volume[301] = 3.0
    assert classified(present, volume)[0] == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.02, 1.0))
def test_every_missing_bar_is_a_gap_or_untraded(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    present = random.random(500) < share
    present[[0, -1]] = True
    gaps, untraded = classified(present, random.lognormal(0, 1, 500))
    assert sorted(gaps + untraded) == np.flatnonzero(~present).tolist()


def test_missing_daily_bars_of_stocks_are_always_gaps() -> None:
    expected = sessions("2024-01-01", "2024-12-31")
    present = np.random.default_rng(1).random(len(expected)) < 0.5
    gaps, untraded = classify_missing(
        expected[~present], expected[present], np.ones(present.sum()), STOCK, D1
    )
    assert gaps.tolist() == expected[~present].tolist()
    assert len(untraded) == 0


def test_nights_and_weekends_of_a_thin_stock_are_no_gaps() -> None:
    expected = regular(M5, "2024-03-04", "2024-03-15")  # daylight saving time begins between
    present = np.random.default_rng(5).random(len(expected)) < 0.6
    present[[0, -1]] = True
    missing = missing_bars(
        STOCK, M5, expected[present], at("2024-03-04"), at("2024-03-16") + timedelta(hours=1)
    )
    gaps, untraded = classify_missing(missing, expected[present], np.ones(present.sum()), STOCK, M5)
    assert len(gaps) == 0
    assert untraded.tolist() == expected[~present].tolist()


@pytest.mark.parametrize("stored", [0, 1])
def test_with_almost_nothing_stored_all_missing_bars_are_gaps(stored: int) -> None:
    ts = hours(10)
    gaps, untraded = classify_missing(ts[stored:], ts[:stored], np.ones(stored), CRYPTO, H1)
    assert gaps.tolist() == ts[stored:].tolist()
    assert len(untraded) == 0


def test_sources_that_disagree() -> None:
    ts, price, volume = hours(6), np.full(6, 100.0), np.full(6, 5.0)
    ours = Bars.of(ts, price, price + 2, price - 2, price, volume)
    closes = price + np.array([0.0, 0.9, 1.1, -1.1, 0.0, 50.0])
    theirs = Bars.of(ts, price, price + 2, price - 2, closes, volume * 9).take(slice(0, 5))
    flags = list(source_disagreement(ours, theirs, "the other"))
    assert [(f.ts.hour, f.severity, f.check) for f in flags] == [
        (2, Severity.WARNING, "source_disagreement"),
        (3, Severity.WARNING, "source_disagreement"),
    ]
    assert flags[0].detail == "close is 100 here and 101.1 at the other"
    assert not list(source_disagreement(ours, Bars.empty(), "the other"))
    assert not list(source_disagreement(ours, ours, "itself", tolerance=0.0))


def test_a_source_without_a_price_does_not_disagree_on_it() -> None:
    ts, price = hours(2), np.full(2, 100.0)
    ours = Bars.of(ts, price, price, price, price, price)
    unknown = Bars.of(ts, price * np.nan, price, price, price * 2, price)
    nothing = Bars.of(ts, *(price * np.nan for _ in range(5)))
    assert len(list(source_disagreement(ours, unknown, "other"))) == 2
    assert not list(source_disagreement(ours, nothing, "other"))
