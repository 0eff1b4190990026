"""Splits, and what is not one: on recorded prices, on made ones, with and without a factor."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest

from enrichment.domain.bars import Bars, Floats, to_datetime
from enrichment.domain.calendars import market_of
from enrichment.domain.corporate_actions import NO_SPLITS, Splits, implied_splits
from enrichment.domain.model import AssetClass, Flag, Severity, Timeframe, Window
from enrichment.pipeline.validation import CHECKS, validate
from enrichment.pipeline.validation.bars import ValidationRequest

SPLITS = {"AAPL": ["2000-06-21", "2005-02-28"], "MSFT": ["2003-02-18"]}
LATER = datetime(2030, 1, 1, tzinfo=UTC)
DAILY = Timeframe.D1


def flags(
    bars: Bars,
    *checks: str,
    splits: Splits | None = None,
    adjusted_until: datetime | None = None,
    asset_class: AssetClass = AssetClass.STOCK,
    timeframe: Timeframe = Timeframe.D1,
) -> list[Flag]:
    window = Window(to_datetime(bars.ts[0]), LATER)
    request = ValidationRequest(
        asset_class, timeframe, window, LATER, splits or NO_SPLITS, adjusted_until
    )
    result = validate(bars, request)
    assert len(result.bars) == len(bars)
    return [flag for flag in result.flags if flag.check in checks]


def dates(flagged: list[Flag]) -> list[str]:
    return [f"{flag.ts:%Y-%m-%d}" for flag in flagged]


def divided(bars: Bars, row: int, ratio: float) -> Bars:
    """The unadjusted series of a company that splits its shares before the row."""
    n = np.where(np.arange(len(bars)) >= row, ratio, 1.0)
    prices = (bars.open / n, bars.high / n, bars.low / n, bars.close / n)
    return Bars.of(bars.ts, *prices, bars.volume * n)


def crashed(bars: Bars, row: int, factor: float, heavy: float) -> Bars:
    """The series of a share that falls to `factor` overnight, on `heavy` times the volume."""
    rows = np.arange(len(bars))
    scale = np.where(rows >= row, factor, 1.0)
    prices = (bars.open * scale, bars.high * scale, bars.low * scale, bars.close * scale)
    return Bars.of(bars.ts, *prices, bars.volume * np.where(rows == row, heavy, 1.0))


def walk(seed: int, count: int = 400) -> Bars:
    """Sessions of a share with overnight and intraday moves of 1 % and uneven volume."""
    random = np.random.default_rng(seed)
    overnight, intraday = random.normal(0, 0.01, (2, count))
    close = 100 * np.exp(np.cumsum(overnight + intraday))
    open_ = close / np.exp(intraday)
    low, high = np.minimum(open_, close) * 0.995, np.maximum(open_, close) * 1.005
    volume = np.floor(1e6 * random.lognormal(0, 0.3, count))
    weekdays = np.busday_offset("2020-01-06", np.arange(count), roll="forward")
    return Bars.of(weekdays.astype("datetime64[us]"), open_, high, low, close, volume)


def test_the_recorded_splits_and_no_others(stocks: dict[str, Bars]) -> None:
    for symbol, bars in stocks.items():
        flagged = flags(bars, "split")
        assert dates(flagged) == SPLITS.get(symbol, []), symbol
        assert {flag.severity for flag in flagged} <= {Severity.WARNING}
        assert all("a split of 2 for 1" in flag.detail for flag in flagged)


def test_a_real_crash_is_an_outlier_and_no_split(stocks: dict[str, Bars]) -> None:
    bars = stocks["AAPL"]
    assert dates(flags(bars, "outlier")) == ["2000-09-29"]
    assert "2000-09-29" in dates(flags(bars, "volume_spike"))


def test_adjusted_closes_name_the_splits(
    stocks: dict[str, Bars], adjusted_closes: dict[str, Floats]
) -> None:
    for symbol, bars in stocks.items():
        splits = implied_splits(bars.ts, bars.close, adjusted_closes[symbol])
        assert [f"{ts:%Y-%m-%d}" for ts in splits] == SPLITS.get(symbol, [])
        assert set(splits.values()) <= {2.0}


@pytest.mark.parametrize(
    "check", ["split", "outlier", "split_without_step", "volume_spike", "volume_collapse"]
)
def test_a_known_split_is_no_finding(stocks: dict[str, Bars], check: str) -> None:
    for symbol, bars in stocks.items():
        days = SPLITS.get(symbol, [])
        known = Splits.of([(date.fromisoformat(day), 2.0) for day in days], Timeframe.D1)
        assert not set(days) & set(dates(flags(bars, check, splits=known))), symbol


def test_a_crash_beside_known_splits_stays_a_crash(stocks: dict[str, Bars]) -> None:
    known = Splits.of([(date.fromisoformat(day), 2.0) for day in SPLITS["AAPL"]], Timeframe.D1)
    bars = stocks["AAPL"]
    assert dates(flags(bars, "outlier", splits=known)) == ["2000-09-29"]
    assert flags(bars, "split", splits=known) == []


def test_a_known_split_without_its_step_is_asked_about_once() -> None:
    bars = walk(1)
    day = to_datetime(bars.ts[200]).date()
    (flag,) = flags(bars, "split", "split_without_step", splits=Splits.of([(day, 2.0)], DAILY))
    assert (flag.check, flag.ts.date()) == ("split_without_step", day)
    assert "a split of 2 for 1 is known for this day" in flag.detail
    stock_dividend = Splits.of([(day, 1.05)], DAILY)
    assert flags(bars, "split_without_step", splits=stock_dividend) == []


@pytest.mark.parametrize("ratio", [2.0, 7.0, 0.1])
def test_a_split_of_another_ratio_than_the_known_one_is_asked_about(ratio: float) -> None:
    bars = divided(walk(2), 200, 3 * ratio)
    known = Splits.of([(to_datetime(bars.ts[200]).date(), ratio)], DAILY)
    assert {flag.check for flag in flags(bars, "split", "split_without_step", splits=known)}


def test_bars_adjusted_in_advance_make_no_step(stocks: dict[str, Bars]) -> None:
    known = Splits.of([(date(2010, 1, 4), 2.0)], DAILY)
    for bars in stocks.values():
        later = bars.take(bars.ts > np.datetime64("2009-01-01"))
        adjusted = flags(
            later,
            "split_without_step",
            splits=known,
            adjusted_until=datetime(2013, 4, 1, tzinfo=UTC),
        )
        assert adjusted == []


@pytest.mark.parametrize("ratio", [2.0, 1.5, 3.0, 7.0, 20.0, 0.1, 0.5])
def test_every_exact_split_of_a_seeded_series_is_found(ratio: float) -> None:
    for seed in range(20):
        row = int(np.random.default_rng([seed, 7]).integers(61, 399))
        bars = divided(walk(seed), row, ratio)
        (flagged,) = flags(bars, "split", "outlier")
        assert (flagged.check, flagged.ts) == ("split", to_datetime(bars.ts[row]))
        assert f"a split of {ratio:.4g} for 1" in flagged.detail


@pytest.mark.parametrize(("symbol", "hour"), [("BHP.AX", 23), ("7203.T", 0), ("AAPL", 14)])
@pytest.mark.parametrize("within", [0, 1])
def test_an_intraday_split_lies_between_two_days_of_the_exchange(
    symbol: str, hour: int, within: int
) -> None:
    """Six hours of trading a day; Sydney's session begins on the day before in UTC."""
    days = 40
    start = np.datetime64("2024-02-05") - np.timedelta64(24 * (hour == 23), "h")
    day = np.busday_offset("2024-02-05", np.arange(days)) - np.datetime64("2024-02-05")
    hours = hour + np.arange(6)
    ts = (start + day[:, None].astype("timedelta64[h]") + hours).ravel().astype("datetime64[us]")
    random = np.random.default_rng(3)
    close = 100 * np.exp(np.cumsum(random.normal(0, 1e-3, len(ts))))
    open_ = np.append(100.0, close[:-1])
    low, high = np.minimum(open_, close) * 0.999, np.maximum(open_, close) * 1.001
    row = 32 * 6 + within
    bars = divided(Bars.of(ts, open_, high, low, close, np.full(len(ts), 1e6)), row, 2.0)
    market = market_of(symbol, AssetClass.STOCK)
    request = ValidationRequest(market, Timeframe.H1, Window(to_datetime(ts[0]), LATER), LATER)
    found = [flag for flag in validate(bars, request).flags if flag.check == "split"]
    assert [flag.ts for flag in found] == ([to_datetime(ts[row])] if within == 0 else [])


@pytest.mark.parametrize("row", [1, 2, 5, 30])
def test_a_split_of_a_young_series_is_found(row: int) -> None:
    bars = divided(walk(3), row, 2.0)
    prices = [column.copy() for column in (bars.open, bars.high, bars.low)]
    prices[0][row] = bars.close[row - 1] / 2
    prices[1][row], prices[2][row] = prices[1][row] * 1.1, prices[2][row] * 0.9
    young = Bars.of(bars.ts, *prices, bars.close, bars.volume)
    assert [f.ts for f in flags(young, "split")] == [to_datetime(bars.ts[row])]


@pytest.mark.parametrize("ratio", [1.5, 2.0, 7.0, 0.1])
def test_most_splits_put_into_recorded_prices_are_found(
    stocks: dict[str, Bars], ratio: float
) -> None:
    """Those missed fall on days of earnings, whose move or turnover hides them."""
    random = np.random.default_rng(11)
    tried = flagged = 0
    for bars in stocks.values():
        for row in random.integers(65, len(bars), 12):
            part = bars.take(slice(max(0, int(row) - 330), int(row) + 1))
            last = to_datetime(part.ts[-1])
            flagged += any(
                f.ts == last for f in flags(divided(part, len(part) - 1, ratio), "split")
            )
            tried += 1
    assert flagged >= 0.9 * tried


@pytest.mark.parametrize(("heavy", "least", "most"), [(1.0, 0.3, 0.8), (10.0, 0.0, 0.05)])
def test_crashes_by_48_percent_taken_for_splits(heavy: float, least: float, most: float) -> None:
    """On usual volume prices alone can't tell; on ten times the volume hardly any is mistaken."""
    mistaken = 0
    for seed in range(60):
        row = int(np.random.default_rng([seed, 8]).integers(61, 399))
        flagged = flags(crashed(walk(seed), row, 0.52, heavy), "split", "outlier")
        assert [f.ts for f in flagged] == [to_datetime(walk(seed).ts[row])]
        mistaken += flagged[0].check == "split"
    assert least <= mistaken / 60 <= most, mistaken


def test_the_way_back_from_a_bad_price_is_no_split() -> None:
    bars = walk(8)
    spiked = crashed(crashed(bars, 200, 2.0, 1.0), 202, 0.5, 1.0)
    flagged = flags(spiked, "split", "outlier")
    assert [(f.check, f.ts) for f in flagged if f.ts >= to_datetime(bars.ts[202])] == [
        ("outlier", to_datetime(bars.ts[202]))
    ]


def test_the_step_is_reported_on_its_own_date() -> None:
    bars = divided(divided(walk(5), 150, 2.0), 250, 4.0)
    expected = [to_datetime(bars.ts[150]), to_datetime(bars.ts[250])]
    assert [f.ts for f in flags(bars, "split")] == expected


def test_a_wrong_opening_price_alone_is_no_split() -> None:
    bars = walk(6)
    open_, low = bars.open.copy(), bars.low.copy()
    open_[200] = bars.close[199] / 2
    low[200] = open_[200]
    assert flags(Bars.of(bars.ts, open_, bars.high, low, bars.close, bars.volume), "split") == []


def test_intraday_a_split_needs_a_new_day() -> None:
    bars = walk(7, 40)
    ts = np.datetime64("2024-01-08T15:00", "us") + np.arange(40) * np.timedelta64(1, "h")
    hourly = Bars.of(ts, bars.open, bars.high, bars.low, bars.close, bars.volume)
    at_midnight = divided(hourly, 14, 2.0)  # in New York
    assert [f.ts.hour for f in flags(at_midnight, "split", timeframe=Timeframe.H1)] == [5]
    assert flags(divided(hourly, 9, 2.0), "split", timeframe=Timeframe.H1) == []
    assert flags(divided(hourly, 12, 2.0), "split", timeframe=Timeframe.H1) == []
    around_the_clock = flags(
        divided(hourly, 12, 2.0), "split", timeframe=Timeframe.H1, asset_class=AssetClass.CRYPTO
    )
    assert [f.ts.hour for f in around_the_clock] == [3]


def test_the_check_states_its_formula() -> None:
    assert "previous close" in (CHECKS["split"].function.__doc__ or "")
