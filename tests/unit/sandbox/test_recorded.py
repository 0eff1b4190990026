"""The replay of recorded bars, against the files and the exchange's calendar."""

from datetime import UTC, datetime, timedelta
from importlib.resources import files

import exchange_calendars
import numpy as np
import pandas as pd
import pytest

from enrichment.domain.model import Timeframe, Window
from enrichment.sandbox.market import Market

ANCHOR = datetime(2024, 12, 26, 12, tzinfo=UTC)  # before the opening, after Christmas
LAST_SESSION = pd.Timestamp("2024-12-24")  # a half-day
EVER = Window(datetime(1990, 1, 1, tzinfo=UTC), datetime(2035, 1, 1, tzinfo=UTC))
PRICES = ["open", "high", "low", "close", "volume"]


def recorded(symbol: str) -> pd.DataFrame:
    path = files("enrichment.sandbox") / "data" / "us_stocks_daily.csv.gz"
    table = pd.read_csv(str(path), parse_dates=["date"])
    return table[table.symbol == symbol].reset_index(drop=True)


def replayed(symbol: str, timeframe: Timeframe, now: datetime, **options: bool) -> pd.DataFrame:
    series = Market(ANCHOR, **options).series(symbol)
    assert series is not None
    return pd.DataFrame(series.bars(timeframe, EVER, now).columns())


@pytest.mark.parametrize(
    ("symbol", "count"),
    [("AAPL", 3270), ("IBM", 3270), ("MSFT", 3270), ("GOOG", 2148), ("FB", 196)],
)
def test_each_recorded_bar_has_a_session_up_to_the_anchor(symbol: str, count: int) -> None:
    bars = replayed(symbol, Timeframe.D1, ANCHOR)
    sessions = exchange_calendars.get_calendar("XNYS", start="2005-01-01").sessions
    expected = sessions[sessions <= LAST_SESSION][-count:]
    assert len(bars) == count
    assert bars.ts.tolist() == expected.tolist()
    assert bars[PRICES].to_numpy().tolist() == recorded(symbol)[PRICES].to_numpy(float).tolist()


def test_weekly_bars_are_the_aggregation_of_the_replayed_days() -> None:
    days = replayed("AAPL", Timeframe.D1, ANCHOR)
    weeks = replayed("AAPL", Timeframe.W1, ANCHOR)
    monday = days.ts - pd.to_timedelta(days.ts.dt.day_of_week, unit="D")
    expected = days.groupby(monday).agg(
        {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    )
    assert weeks.ts.tolist() == expected.index.tolist()
    assert weeks[PRICES].to_numpy().tolist() == expected[PRICES].to_numpy().tolist()


def test_after_the_anchor_each_session_adds_one_bar_and_history_is_unchanged() -> None:
    before = replayed("AAPL", Timeframe.D1, ANCHOR)
    soon = replayed("AAPL", Timeframe.D1, ANCHOR + timedelta(days=8))
    later = replayed("AAPL", Timeframe.D1, ANCHOR + timedelta(days=200))
    new = [str(day.date()) for day in soon.ts[len(before) :]]
    assert new == ["2024-12-26", "2024-12-27", "2024-12-30", "2024-12-31", "2025-01-02"]
    pd.testing.assert_frame_equal(soon[: len(before)], before)
    pd.testing.assert_frame_equal(later[: len(soon)], soon)
    walk = later[len(before) :]
    assert (walk.high >= walk[["open", "close"]].max(axis=1)).all()
    assert (walk.low <= walk[["open", "close"]].min(axis=1)).all()
    assert walk.open.iloc[0] == before.close.iloc[-1]
    assert (walk.volume > 0).all()


def test_no_bar_lies_in_the_future_even_of_a_later_anchor() -> None:
    bars = replayed("AAPL", Timeframe.D1, ANCHOR - timedelta(days=30))
    assert bars.ts.iloc[-1] == pd.Timestamp("2024-11-25")


def test_unshifted_bars_keep_their_dates_and_end_with_them() -> None:
    bars = replayed("AAPL", Timeframe.D1, ANCHOR, shifted=False)
    assert bars.ts.tolist() == recorded("AAPL").date.tolist()


def test_recorded_stocks_have_daily_and_weekly_bars_only() -> None:
    for timeframe in Timeframe:
        assert replayed("IBM", timeframe, ANCHOR).empty == timeframe.intraday


def test_the_euro_is_shifted_by_whole_weeks_and_continues() -> None:
    path = files("enrichment.sandbox") / "data" / "eurusd_hourly.csv.gz"
    table = pd.read_csv(str(path), parse_dates=["timestamp"])
    bars = replayed("C:EURUSD", Timeframe.H1, ANCHOR)
    shift = bars.ts.iloc[0] - table.timestamp.iloc[0]
    assert shift % pd.Timedelta(weeks=1) == pd.Timedelta(0)
    assert (bars.ts[:5000] == table.timestamp + shift).all()
    assert bars[PRICES][:5000].to_numpy().tolist() == table[PRICES].to_numpy(float).tolist()
    assert bars.ts.is_monotonic_increasing
    assert bars.ts.iloc[-1] == pd.Timestamp("2024-12-26T11:00")
    later = replayed("C:EURUSD", Timeframe.H1, ANCHOR + timedelta(days=30)).ts[5000:]
    assert not (later.dt.day_of_week == 5).any()


@pytest.mark.parametrize(("timeframe", "rule"), [(Timeframe.H4, "4h"), (Timeframe.D1, "1D")])
def test_the_euro_has_longer_bars_made_of_its_hours(timeframe: Timeframe, rule: str) -> None:
    hours = replayed("C:EURUSD", Timeframe.H1, ANCHOR).set_index("ts")
    made = replayed("C:EURUSD", timeframe, ANCHOR).set_index("ts")
    expected = hours.resample(rule).agg(
        {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    )
    expected = expected[expected.volume > 0]
    assert made.index.tolist() == expected.index.tolist()
    assert np.array_equal(made[PRICES].to_numpy(), expected[PRICES].to_numpy())


def test_unknown_tickers_have_no_series() -> None:
    assert Market(ANCHOR).series("TSLA") is None
    assert Market(ANCHOR).series("SIM") is None
