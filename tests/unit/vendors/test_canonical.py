"""Canonical bars: what vendors send in their own ways, as the same bars."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import exchange_calendars
import numpy as np
import pandas as pd
import pytest

from enrichment.domain.bars import Bars, to_datetime64
from enrichment.domain.calendars import canonical
from enrichment.domain.corporate_actions import ActionKind, CorporateAction
from enrichment.domain.errors import MalformedResponse
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.canonical import (
    CanonicalProvider,
    asked_window,
    build,
    source_timeframe,
    source_window,
)
from enrichment.vendors.spelling import vendor_spelling

STOCK, CRYPTO = AssetClass.STOCK, AssetClass.CRYPTO
NEW_YORK = "America/New_York"
# A week of winter, one of summer, the week of both clock changes, and one with a half day.
WEEKS = ["2024-01-08", "2024-07-08", "2024-03-04", "2024-03-11", "2024-11-04", "2024-11-25"]


def minutes(monday: str, freq: str, *, extended: bool, days: int = 7) -> pd.DataFrame:
    """Trades of a stock as bars of this length, New York time, from real session hours."""
    calendar = exchange_calendars.get_calendar("XNYS", start="2022-01-01", end="2025-12-31")
    end = pd.Timestamp(monday) + pd.Timedelta(days=days - 1)
    frames = []
    for label in calendar.sessions_in_range(monday, end):
        open_, close = calendar.session_open_close(label)
        if extended:
            local = label.tz_localize(NEW_YORK)
            open_, close = local + pd.Timedelta(hours=4), local + pd.Timedelta(hours=20)
        frames.append(pd.date_range(open_, close, freq="5min", inclusive="left").tz_convert("UTC"))
    index = frames[0].append(frames[1:])
    rng = np.random.default_rng(int(index[0].timestamp()))
    close_ = 100 + np.cumsum(rng.normal(0, 0.1, len(index)))
    open_ = np.append(100.0, close_[:-1])
    base = pd.DataFrame(
        {
            "open": open_,
            "high": np.maximum(open_, close_) + 0.05,
            "low": np.minimum(open_, close_) - 0.05,
            "close": close_,
            "volume": rng.integers(1, 1000, len(index)).astype(float),
        },
        index=index,
    )
    return resampled(base, freq)


def resampled(frame: pd.DataFrame, freq: str) -> pd.DataFrame:
    rules = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    local = frame.tz_convert(NEW_YORK).tz_localize(None)
    out = local.resample(freq, origin="start_day").agg(rules).dropna(subset=["open"])
    return out.tz_localize(NEW_YORK).tz_convert("UTC")


def regular(frame: pd.DataFrame) -> pd.DataFrame:
    calendar = exchange_calendars.get_calendar("XNYS", start="2023-01-01", end="2025-12-31")
    days = frame.index.tz_convert(NEW_YORK).strftime("%Y-%m-%d")
    hours = {day: calendar.session_open_close(day) for day in days.unique()}
    return frame[[hours[d][0] <= ts < hours[d][1] for ts, d in zip(frame.index, days, strict=True)]]


def bars_of(frame: pd.DataFrame) -> Bars:
    ts = frame.index.tz_localize(None).to_numpy(dtype="datetime64[us]")
    return Bars.of(ts, *(frame[c].to_numpy() for c in ("open", "high", "low", "close", "volume")))


class Vendor:
    """Answers whatever it is asked for with these bars of the asked window."""

    name = source = "vendor"

    def __init__(self, bars: dict[Timeframe, Bars]) -> None:
        self.bars = bars
        self.asked: list[tuple[Timeframe, Window]] = []

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        self.asked.append((timeframe, window))
        bars = self.bars[timeframe]
        start, end = (to_datetime64(moment) for moment in (window.start, window.end))
        return FetchedBars(bars.take((bars.ts >= start) & (bars.ts < end)), self.source, False)


def week_of(monday: str) -> Window:
    start = datetime.fromisoformat(monday).replace(tzinfo=UTC)
    return Window(start, start + timedelta(weeks=1))


def assert_equal(found: Bars, expected: pd.DataFrame) -> None:
    wanted = bars_of(expected)
    for name in ("ts", "open", "high", "low", "close"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    np.testing.assert_allclose(found.volume, wanted.volume)


@pytest.mark.parametrize("monday", WEEKS)
@pytest.mark.parametrize(
    ("timeframe", "freq"), [(Timeframe.M30, "30min"), (Timeframe.H1, "1h"), (Timeframe.H4, "4h")]
)
def test_extended_and_regular_hours_give_the_same_bars(
    monday: str, timeframe: Timeframe, freq: str
) -> None:
    """Polygon sends pre-market and after-hours trades, Yahoo an empty row at the close."""
    extended = minutes(monday, "5min", extended=True)
    core = regular(extended)
    expected = resampled(core, freq)
    half_hours = resampled(extended, "30min")
    at_close = core.groupby(core.index.tz_convert(NEW_YORK).date).tail(1).copy()
    at_close.index = at_close.index + pd.Timedelta(minutes=5)
    at_close["volume"] = 0.0
    yahoo = pd.concat([resampled(core, "30min"), at_close]).sort_index()
    for sent in (half_hours, yahoo):
        vendor = Vendor({Timeframe.M30: bars_of(sent)})
        fetched = CanonicalProvider(vendor).fetch("AAPL", STOCK, timeframe, week_of(monday))
        assert_equal(fetched.bars, expected)
        assert vendor.asked[0][0] is Timeframe.M30


@pytest.mark.parametrize("monday", WEEKS)
def test_weeks_are_built_from_days(monday: str) -> None:
    days = resampled(regular(minutes(monday, "5min", extended=True)), "1D")
    days.index = pd.DatetimeIndex(days.index.tz_convert(NEW_YORK).date).tz_localize("UTC")
    vendor = Vendor({Timeframe.D1: bars_of(days)})
    fetched = CanonicalProvider(vendor).fetch("AAPL", STOCK, Timeframe.W1, week_of(monday))
    expected = days.iloc[[0]].copy()
    expected.index = pd.DatetimeIndex([monday]).tz_localize("UTC")
    expected["high"], expected["low"] = days["high"].max(), days["low"].min()
    expected["close"], expected["volume"] = days["close"].iloc[-1], days["volume"].sum()
    assert_equal(fetched.bars, expected)


@pytest.mark.parametrize("lost", range(5))
def test_a_week_without_one_of_its_sessions_is_not_built(lost: int) -> None:
    days = pd.date_range("2024-01-08", periods=10, freq="B", tz="UTC")
    frame = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0), index=days)
    bars = bars_of(frame.drop(days[lost]))
    built = build(bars, STOCK, Timeframe.D1, Timeframe.W1)
    assert built.ts.astype("datetime64[D]").astype(str).tolist() == ["2024-01-15"]


def weekly(days: pd.DatetimeIndex, asked_from: str, kind: AssetClass = STOCK) -> list[str]:
    """The weeks that are built of days with a volume of 1, as `2024-05-20 3` with their volume."""
    frame = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0), index=days)
    now = datetime(2024, 12, 28, 1, 30, tzinfo=UTC)
    vendor = Vendor({Timeframe.D1: bars_of(frame)})
    start = datetime.fromisoformat(asked_from).replace(tzinfo=UTC)
    symbol = "AAPL" if kind is STOCK else "X:BTCUSD"
    weeks = CanonicalProvider(vendor, now=lambda: now).fetch(
        symbol, kind, Timeframe.W1, Window(start, now)
    )
    return [
        f"{ts} {v:.0f}"
        for ts, v in zip(weeks.bars.ts.astype("M8[D]"), weeks.bars.volume, strict=True)
    ]


def sessions(first: str) -> pd.DatetimeIndex:
    calendar = exchange_calendars.get_calendar("XNYS", start="2022-01-01", end="2025-12-31")
    return calendar.sessions_in_range(first, "2024-12-27").tz_localize("UTC")


def by_pandas(days: pd.DatetimeIndex) -> list[str]:
    counts = pd.Series(1, index=days).resample("W-MON", closed="left", label="left").sum()
    return [f"{week:%Y-%m-%d} {count}" for week, count in counts.items() if count]


def test_the_week_of_a_listing_is_built_of_the_days_since() -> None:
    listed = sessions("2024-05-22")  # a Wednesday
    assert weekly(listed, "2023-01-01") == by_pandas(listed)
    coin = pd.date_range("2024-05-22", "2024-12-22", tz="UTC")
    assert weekly(coin, "2023-01-01", CRYPTO) == by_pandas(coin)


def test_a_week_in_which_a_plan_begins_is_not_built_of_the_days_since() -> None:
    served = sessions("2022-12-28")  # a Wednesday two years before
    assert weekly(served, "2021-01-01") == by_pandas(served)[1:]


@pytest.mark.parametrize(("years", "first"), [(2, "2022-12-28T18"), (1.5, "2023-06-28T17")])
def test_an_hour_of_which_a_plan_serves_the_second_half_is_not_built(
    years: float, first: str
) -> None:
    """A plan reaches back to the minute; a listing begins with its first trade."""
    frame = minutes("2022-12-26" if years == 2 else "2023-06-26", "30min", extended=False, days=5)
    begin = pd.Timestamp(first[:10] + "T17:30", tz="UTC")
    vendor = Vendor({Timeframe.M30: bars_of(frame[frame.index >= begin])})
    now = datetime(2024, 12, 28, 17, 30, tzinfo=UTC)
    window = Window(now - timedelta(days=1000), now)
    fetched = CanonicalProvider(vendor, now=lambda: now).fetch("AAPL", STOCK, Timeframe.H1, window)
    assert fetched.bars.ts[0] == np.datetime64(first)


def test_weeks_of_a_stock_that_is_seldom_traded_are_built_of_the_days_that_it_was() -> None:
    days = sessions("2023-01-03")
    traded = days[np.random.default_rng(5).random(len(days)) < 0.6].union(days[[0, 1, -1]])
    assert weekly(traded, "2023-01-01") == by_pandas(traded)


def test_a_hole_of_two_months_does_not_make_a_series_one_that_is_seldom_traded() -> None:
    days = sessions("2024-01-02")
    served = days[(days < "2024-03-06") | (days > "2024-05-07")]
    torn = {"2024-03-04 2", "2024-05-06 3"}
    assert torn < set(by_pandas(served))
    assert weekly(served, "2024-01-01") == [w for w in by_pandas(served) if w not in torn]


def test_the_newest_hour_waits_for_its_second_half() -> None:
    frame = minutes("2024-01-08", "30min", extended=False, days=1)
    whole = build(bars_of(frame), STOCK, Timeframe.M30, Timeframe.H1)
    without = build(bars_of(frame.iloc[:-1]), STOCK, Timeframe.M30, Timeframe.H1)
    assert len(whole) == 7
    np.testing.assert_array_equal(without.ts, whole.ts[:-1])


def test_an_hour_in_the_middle_may_lack_a_half_that_nobody_traded() -> None:
    frame = minutes("2024-01-08", "30min", extended=False, days=1)
    built = build(bars_of(frame.drop(frame.index[4])), STOCK, Timeframe.M30, Timeframe.H1)
    assert len(built) == 7


def test_the_vwap_is_weighted_by_volume_and_counts_are_summed() -> None:
    frame = minutes("2024-01-08", "30min", extended=False, days=1).iloc[1:3]
    bars = replace(
        bars_of(frame),
        vwap=np.array([10.0, 20.0]),
        volume=np.array([3.0, 1.0]),
        trades=np.array([5.0, 7.0]),
    )
    (hour,) = (build(bars, STOCK, Timeframe.M30, Timeframe.H1),)
    assert hour.vwap.tolist() == [12.5]
    assert hour.trades.tolist() == [12.0]
    silent = replace(bars, volume=np.zeros(2), vwap=np.full(2, np.nan))
    assert np.isnan(build(silent, STOCK, Timeframe.M30, Timeframe.H1).vwap).all()


def test_a_window_is_widened_to_whole_bars() -> None:
    window = Window(datetime(2024, 1, 10, tzinfo=UTC), datetime(2024, 1, 11, 15, 10, tzinfo=UTC))
    assert source_window(window, STOCK, Timeframe.D1) == window
    assert source_window(window, STOCK, Timeframe.W1) == Window(
        datetime(2024, 1, 8, tzinfo=UTC), datetime(2024, 1, 15, tzinfo=UTC)
    )
    assert source_window(window, STOCK, Timeframe.H1).end == datetime(2024, 1, 11, 16, tzinfo=UTC)
    assert source_window(window, CRYPTO, Timeframe.H1) == window


def test_crypto_is_taken_as_it_is() -> None:
    ts = np.arange("2024-01-06", "2024-01-08", dtype="datetime64[h]").astype("datetime64[us]")
    bars = Bars.of(ts, *(np.ones(len(ts)) for _ in range(5)))
    window = Window(datetime(2024, 1, 6, tzinfo=UTC), datetime(2024, 1, 8, tzinfo=UTC))
    fetched = CanonicalProvider(Vendor({Timeframe.H1: bars})).fetch(
        "X:BTCUSD", CRYPTO, Timeframe.H1, window
    )
    assert len(fetched.bars) == 48


@pytest.mark.parametrize(
    ("first", "limit"),
    [
        ("2024-01-03", None),  # a holiday and a weekend after the window's start
        ("2024-11-27", "plan"),  # two years before now
        ("2024-06-03", "vendor"),  # listed then, as far as the vendor knows
    ],
)
def test_where_an_answer_begins_is_what_was_served(first: str, limit: str | None) -> None:
    ts = np.arange(np.datetime64(first), np.datetime64("2026-11-28"))
    vendor = Answering(Bars.of(ts, *(np.ones(len(ts)) for _ in range(5))))
    now = datetime(2026, 11, 28, 1, 30, tzinfo=UTC)
    window = Window(datetime(2023, 12, 29, tzinfo=UTC), now)
    fetched = CanonicalProvider(vendor, now=lambda: now).fetch("AAPL", STOCK, Timeframe.D1, window)
    served = None if limit is None else datetime.fromisoformat(first).replace(tzinfo=UTC)
    assert (fetched.served_from, fetched.limit) == (served, limit)


def parts(start: str, count: int, minutes_each: int = 30) -> Bars:
    ts = np.datetime64(start, "us") + np.arange(count) * np.timedelta64(minutes_each, "m")
    price = 10.0 + np.arange(count)
    return Bars.of(ts, price, price + 2, price - 2, price + 1, np.full(count, 100.0))


def hours(bars: Bars, *, cut: bool = False) -> Bars:
    return build(bars, CRYPTO, Timeframe.M30, Timeframe.H1, cut=cut)


def test_parts_that_come_twice_or_in_another_order_give_the_same_bars() -> None:
    sent = parts("2024-01-06", 40)
    expected = hours(sent)
    assert expected.volume.tolist() == [200.0] * 20
    for rows in (np.repeat(np.arange(40), 2), np.arange(40)[::-1], np.r_[:40, 3:9]):
        again = hours(sent.take(rows))
        for name, column in expected.columns().items():
            np.testing.assert_array_equal(again.columns()[name], column, err_msg=name)


@pytest.mark.parametrize(
    ("column", "value"),
    [("volume", -1.0), ("open", 0.0), ("low", -3.0), ("close", np.inf), ("high", 1.0)],
)
def test_a_part_that_can_not_be_right_keeps_its_bar_out(column: str, value: float) -> None:
    sent = parts("2024-01-06", 40)
    sent.columns()[column][7] = value
    built = hours(sent)
    assert np.flatnonzero(~built.usable_rows()).tolist() == [3]


def test_a_missing_part_of_a_series_that_trades_all_the_time_leaves_its_bar_out() -> None:
    sent = parts("2024-01-06", 40)
    built = hours(sent.take(np.delete(np.arange(40), 7)))
    assert list(np.setdiff1d(hours(sent).ts, built.ts)) == [np.datetime64("2024-01-06T03")]


def test_a_missing_part_of_a_series_that_trades_now_and_then_had_no_trades() -> None:
    sent = parts("2024-01-06", 40)
    some = sent.take(np.array([0, 3, 4, 5, 9, 12, 20, 21, 30, 39]))
    assert hours(some).volume.tolist() == [100, 100, 200, 100, 100, 200, 100, 100]


def test_a_bar_that_begins_before_the_vendors_reach_is_left_out() -> None:
    sent = parts("2024-01-06T00:30", 39)
    assert hours(sent).ts[0] == np.datetime64("2024-01-06T00:00")
    assert hours(sent, cut=True).ts[0] == np.datetime64("2024-01-06T01:00")


class Answering:
    """A vendor that answers with these bars, whatever it is asked for."""

    name = source = "vendor"

    def __init__(self, bars: Bars) -> None:
        self.bars = bars

    def fetch(self, *_: object) -> FetchedBars:
        return FetchedBars(self.bars, "vendor", adjusted=True)


@pytest.mark.parametrize(
    ("asset_class", "asked", "minutes_each", "count", "problem"),
    [
        (CRYPTO, Timeframe.H1, 15, 100, "shorter than 1h"),
        (CRYPTO, Timeframe.H1, 240, 30, "longer than 1h"),
        (CRYPTO, Timeframe.D1, 60, 100, "shorter than 1d"),
        (CRYPTO, Timeframe.D1, 7 * 1440, 30, "longer than 1d"),
        (CRYPTO, Timeframe.W1, 60, 500, "shorter than 1d"),
        (STOCK, Timeframe.H1, 1440, 30, "longer than 30m"),
    ],
)
def test_bars_of_another_timeframe_are_refused(
    asset_class: AssetClass, asked: Timeframe, minutes_each: int, count: int, problem: str
) -> None:
    sent = parts("2024-01-06", count, minutes_each)
    if not source_timeframe(asset_class, asked).intraday:
        sent = replace(sent, ts=canonical(asset_class, Timeframe.D1, sent.ts))
    window = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 12, 1, tzinfo=UTC))
    with pytest.raises(MalformedResponse, match=f"vendor, .*{problem}.*next run asks again"):
        CanonicalProvider(Answering(sent)).fetch("X:BTCUSD", asset_class, asked, window)


def test_bars_far_outside_the_window_are_refused_and_some_around_it_are_not() -> None:
    window = Window(datetime(2024, 1, 6, tzinfo=UTC), datetime(2024, 1, 7, tzinfo=UTC))
    request = ("X:BTCUSD", CRYPTO, Timeframe.H1, window)
    around = CanonicalProvider(Answering(parts("2024-01-05T20:00", 40, 60))).fetch(*request)
    assert around.bars.ts[0] == np.datetime64("2024-01-06")
    with pytest.raises(MalformedResponse, match="outside the requested time"):
        CanonicalProvider(Answering(parts("1970-01-20", 40, 60))).fetch(*request)


@pytest.mark.parametrize(
    ("vendor", "symbol", "substitution"),
    [
        ("binance", "X:BTCUSD", "USDT for USD"),
        ("yahoo", "X:BTCUSDT", "USD for USDT"),
        ("coinbase", "X:BTCUSD", None),
        ("binance", "X:BTCUSDT", None),
        ("binance", "X:BTCEUR", None),
    ],
)
def test_another_quote_currency_is_stated(
    vendor: str, symbol: str, substitution: str | None
) -> None:
    window = Window(datetime(2024, 1, 6, tzinfo=UTC), datetime(2024, 1, 7, tzinfo=UTC))
    sent = Answering(parts("2024-01-06", 24, 60))
    sent.name = vendor
    fetched = CanonicalProvider(sent).fetch(symbol, CRYPTO, Timeframe.H1, window)
    assert fetched.substitution == substitution
    assert fetched.spelling == vendor_spelling(vendor, symbol)


@pytest.mark.parametrize("split_on", range(6))
@pytest.mark.parametrize("reported", [False, True], ids=["by the ledger", "by the answer"])
def test_a_week_with_a_split_is_on_the_basis_of_its_last_day(split_on: int, reported: bool) -> None:
    """Two flat weeks, but for a split of 4 for 1 on a weekday of the first, or after it."""
    days = pd.date_range("2024-01-08", periods=10, freq="B", tz="UTC")
    before = days < days[split_on]
    frame = pd.DataFrame(index=days)
    for name in ("open", "high", "low", "close"):
        frame[name] = np.where(before, 400.0, 100.0)
    frame["volume"] = np.where(before, 1_000.0, 4_000.0)
    split = (days[split_on].date(), 4.0)

    class Reporting(Vendor):
        def fetch(self, *args: Any) -> FetchedBars:
            action = CorporateAction("AAPL", ActionKind.SPLIT, split[0], "vendor", split[1])
            return replace(super().fetch(*args), actions=(action,) if reported else ())

    provider = CanonicalProvider(
        Reporting({Timeframe.D1: bars_of(frame)}), splits=lambda _: () if reported else (split,)
    )
    window = Window(days[0].to_pydatetime(), days[0].to_pydatetime() + timedelta(weeks=2))
    weeks = provider.fetch("AAPL", STOCK, Timeframe.W1, window).bars
    first = 400.0 if split_on == 5 else 100.0
    for price in (weeks.open, weeks.high, weeks.low, weeks.close):
        assert price.tolist() == [first, 100.0]
    assert weeks.volume.tolist() == [5_000.0 if split_on == 5 else 20_000.0, 20_000.0]


def test_timeframes_of_one_run_ask_for_the_same_bars_whenever_it_is_their_turn() -> None:
    began = datetime(2024, 3, 1, 15, 56, tzinfo=UTC)
    window = Window(began - timedelta(days=10), began)
    ends = {
        asked_window(window, STOCK, timeframe, began + timedelta(minutes=waited)).end
        for timeframe in (Timeframe.H1, Timeframe.H4)
        for waited in (0, 10)  # until after the hour
    }
    assert ends == {began}
    past = Window(window.start, began - timedelta(days=1))
    assert asked_window(past, STOCK, Timeframe.H1, began).end == past.end + timedelta(minutes=4)
