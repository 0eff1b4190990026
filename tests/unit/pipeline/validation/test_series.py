"""Checks of bars against those before them, in one run or in several."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.model import AssetClass, Severity, Timeframe, ValidationResult, Window
from enrichment.pipeline import features
from enrichment.pipeline.features import compute
from enrichment.pipeline.validation import CHECKS, validate
from enrichment.pipeline.validation.bars import ValidationRequest
from enrichment.pipeline.validation.series import CONTEXT_BARS, SeriesCheck

LATER = datetime(2030, 1, 1, tzinfo=UTC)
SERIES_CHECKS = {name for name, check in CHECKS.items() if isinstance(check, SeriesCheck)}


def run(
    bars: Bars,
    context: Bars | None = None,
    *,
    since: np.datetime64 | None = None,
    timeframe: Timeframe = Timeframe.D1,
) -> ValidationResult:
    window = Window(to_datetime(bars.ts[0] if since is None else since), LATER)
    request = ValidationRequest(AssetClass.CRYPTO, timeframe, window, LATER)
    return validate(bars, request, context)


def details(result: ValidationResult, *checks: str) -> list[tuple[int, str]]:
    """(day since 2020-01-01, detail) of the flags of the given checks."""
    first = datetime(2020, 1, 1, tzinfo=UTC)
    return [((f.ts - first).days, f.detail) for f in result.flags if f.check in checks]


def days(result: ValidationResult, *checks: str) -> list[int]:
    return [day for day, _ in details(result, *checks)]


def walk(count: int = 300, seed: int = 1, **changed: dict[int, float]) -> Bars:
    """Days from 2020-01-01 on, moving by 1 %, with the given cells replaced."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, count)))
    volume = np.floor(1e6 * random.lognormal(0, 0.2, count))
    columns: dict[str, Any] = {"close": close, "volume": volume}
    for name, cells in changed.items():
        for row, value in cells.items():
            columns[name][row] = value
    ts = np.datetime64("2020-01-01", "us") + np.arange(count) * np.timedelta64(1, "D")
    high, low = columns["close"] * 1.002, columns["close"] * 0.998
    return Bars.of(ts, columns["close"], high, low, columns["close"], columns["volume"])


def test_an_ordinary_series_has_no_flags() -> None:
    for seed in range(20):
        assert run(walk(seed=seed)).flags == ()


def test_none_of_these_checks_keeps_a_bar_out() -> None:
    errors = {name for name in SERIES_CHECKS if CHECKS[name].severity is Severity.ERROR}
    assert errors == {"stale_feed"}
    stopped = walk(
        close=dict.fromkeys(range(150, 300), 99.0), volume=dict.fromkeys(range(150, 300), 0)
    )
    result = run(stopped)
    assert (len(result.bars), result.quarantined) == (300, ())


@pytest.mark.parametrize("factor", [1.3, 0.77, 43.0])
def test_a_spike_is_an_outlier_on_both_sides(factor: float) -> None:
    bars = walk()
    spiked = walk(close={150: bars.close[150] * factor})
    assert days(run(spiked), "outlier") == [150, 151]


def test_a_spike_that_the_vendor_corrects_is_not_flagged_again() -> None:
    bars = walk()
    stored = walk(close={290: bars.close[290] * 1.3})
    again = bars.take(slice(288, None))
    assert days(run(stored), "outlier") == [290, 291]
    assert run(again, stored, since=again.ts[0]).flags == ()


def test_outliers_follow_the_formula() -> None:
    bars = walk(seed=4)
    returns = np.diff(np.log(bars.close))
    before = returns[139:199]
    middle = np.median(before)
    spread = 1.4826 * np.median(np.abs(before - middle))
    for z, flagged in ((9.9, []), (10.1, [200]), (-10.1, [200])):
        jump = bars.close[199] * np.exp(middle + z * spread)
        columns = bars.take(slice(201)).columns()
        for price in ("open", "high", "low", "close"):
            columns[price] = columns[price].copy()
            columns[price][200] = jump
        result = run(Bars(**columns))
        assert days(result, "outlier") == flagged
        if flagged:
            assert f"{z:.4g} robust deviations" in details(result, "outlier")[0][1]


@pytest.mark.parametrize(("night", "flagged"), [(1, True), (15, True), (17, False)])
def test_a_night_may_move_prices_more_than_an_hour(night: int, flagged: bool) -> None:
    bars = walk(seed=4)
    ts = np.datetime64("2020-01-01", "us") + np.arange(300) * np.timedelta64(1, "h")
    ts[200:] += np.timedelta64(night - 1, "h")
    columns = bars.columns() | {"ts": ts}
    returns = np.diff(np.log(bars.close))[139:199]
    spread = 1.4826 * np.median(np.abs(returns - np.median(returns)))
    jump = np.exp(40 * spread + np.median(returns)) / (bars.close[200] / bars.close[199])
    for price in ("open", "high", "low", "close"):
        columns[price] = columns[price].copy()
        columns[price][200:] *= jump
    flags = run(Bars(**columns), timeframe=Timeframe.H1).flags
    assert [f.ts for f in flags if f.check == "outlier"] == [to_datetime(ts[200])] * flagged


def test_a_market_that_stood_still_may_move_again() -> None:
    close = np.full(100, 1.0)
    close[80:] = 1.0009
    ts = np.datetime64("2020-01-01", "us") + np.arange(100) * np.timedelta64(1, "D")
    assert days(run(Bars.of(ts, close, close, close, close, close)), "outlier") == []
    close[80:] = 1.0011
    assert days(run(Bars.of(ts, close, close, close, close, close)), "outlier") == [80]


def test_volume_spikes_and_collapses() -> None:
    result = run(walk(volume={100: 3e7, 200: 2e4}))
    assert days(result, "volume_spike") == [100]
    assert days(result, "volume_collapse") == [200]
    assert "volume 20000 is 0.019" in details(result, "volume_collapse")[0][1]


def test_volume_that_always_varies_wildly_has_no_flags() -> None:
    random = np.random.default_rng(9)
    wild = {row: float(v) for row, v in enumerate(1e6 * random.lognormal(0, 2.0, 300))}
    assert days(run(walk(volume=wild)), "volume_spike", "volume_collapse") == []


def test_zero_volume_is_flagged_once_per_run_of_bars() -> None:
    result = run(walk(volume={100: 0.0, **dict.fromkeys(range(150, 175), 0.0)}))
    assert days(result, "zero_volume") == [100, 150, 159]
    assert [detail for _, detail in details(result, "zero_volume")] == [
        "volume is 0, in a row: 1", "volume is 0, in a row: 1", "volume is 0, in a row: 10",
    ]  # fmt: skip


def test_an_instrument_without_volume_has_no_volume_flags(eurusd: Bars) -> None:
    silent = Bars.of(
        eurusd.ts, eurusd.open, eurusd.high, eurusd.low, eurusd.close, np.zeros(len(eurusd))
    )
    result = run(silent, timeframe=Timeframe.H1)
    assert len(result.bars) == len(eurusd)
    assert {f.check for f in result.flags} == {"outlier"}


def test_a_thinly_traded_series_is_not_flagged_bar_by_bar() -> None:
    random = np.random.default_rng(2)
    empty = dict.fromkeys(np.flatnonzero(random.random(300) < 0.5), 0.0)
    assert len(days(run(walk(volume=empty)), "zero_volume")) <= 5


def _repeated(count: int, volume: float) -> Bars:
    """A walk whose 100th bar is sent `count` times."""
    columns = walk().columns()
    for name in ("open", "high", "low", "close"):
        columns[name] = columns[name].copy()
        columns[name][100 : 100 + count] = columns[name][100]
    columns["volume"] = columns["volume"].copy()
    columns["volume"][101 : 100 + count] = volume
    return Bars(**columns)


@pytest.mark.parametrize(
    ("count", "flagged"), [(1, []), (4, []), (5, [104]), (9, [104]), (21, [104, 109, 119])]
)
def test_equal_prices_in_a_row_are_stale(count: int, flagged: list[int]) -> None:
    assert days(run(_repeated(count, 7.0)), "stale_run") == flagged


def _stopped(count: int, *, first: int = 200, volume: float | None = 0.0, of: Bars) -> Bars:
    """The bars with `count` of them repeating the one before; volume None: that of it, too."""
    columns = {name: column.copy() for name, column in of.columns().items()}
    rows = slice(first, first + count)
    for name in ("open", "high", "low", "close"):
        columns[name][rows] = columns["close"][first - 1]
    columns["volume"][rows] = columns["volume"][first - 1] if volume is None else volume
    if volume is None:
        for name in ("open", "high", "low"):
            columns[name][rows] = columns[name][first - 1]
    return Bars(**columns)


@pytest.mark.parametrize("volume", [0.0, None])
@pytest.mark.parametrize(
    ("count", "timeframe", "flagged"),
    [
        (4, Timeframe.D1, []),
        (5, Timeframe.D1, [204]),
        (60, Timeframe.D1, list(range(204, 260))),
        (11, Timeframe.H1, []),
        (13, Timeframe.H1, [211, 212]),
    ],
)
def test_a_feed_that_stopped_is_an_error(
    count: int, timeframe: Timeframe, volume: float | None, flagged: list[int]
) -> None:
    bars = _stopped(count, volume=volume, of=walk())
    if timeframe is Timeframe.H1:
        hours = (bars.ts - bars.ts[0]).astype(int) // 86_400_000_000
        bars = replace(bars, ts=bars.ts[0] + hours * np.timedelta64(1, "h"))
        first = bars.ts[0]
        flags = [f for f in run(bars, timeframe=timeframe).flags if f.check == "stale_feed"]
        rows = [
            int((np.datetime64(f.ts.replace(tzinfo=None)) - first) / np.timedelta64(1, "h"))
            for f in flags
        ]
        assert rows == flagged
    else:
        assert days(run(bars), "stale_feed") == flagged


def test_volume_alone_that_stopped_is_a_stale_feed() -> None:
    assert days(run(walk(volume=dict.fromkeys(range(150, 160), 0.0))), "stale_feed") == [
        *range(154, 160)
    ]


def test_a_feed_that_never_lived_is_stale_after_20_bars() -> None:
    bars = walk(60)
    silent = _stopped(59, first=1, of=bars)
    assert days(run(silent), "stale_feed") == list(range(20, 60))


def test_a_long_stale_feed_stays_one() -> None:
    assert days(run(_stopped(600, of=walk(800))), "stale_feed") == list(range(204, 800))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_thinly_traded_series_is_no_stale_feed(share: float) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        empty = dict.fromkeys(np.flatnonzero(random.random(2_000) < share), 0.0)
        assert days(run(walk(2_000, volume=empty)), "stale_feed") == []


def test_a_run_that_the_history_shows_is_no_stale_feed() -> None:
    bars = walk(500)
    for first in (100, 180, 260, 340, 420):
        bars = _stopped(4 + first // 60, first=first, of=bars)
    assert days(run(bars), "stale_feed") == [104]


def test_an_instrument_without_volume_is_stale_by_its_prices_only(eurusd: Bars) -> None:
    silent = replace(eurusd, volume=np.zeros(len(eurusd)))
    assert [f for f in run(silent, timeframe=Timeframe.H1).flags if f.check == "stale_feed"] == []
    assert days(run(_stopped(8, of=replace(walk(), volume=np.zeros(300)))), "stale_feed") == [
        *range(205, 208)
    ]


def test_stale_feeds_are_found_in_nightly_runs_as_in_one() -> None:
    for bars in (_stopped(60, first=720, of=walk(800)), _stopped(500, first=150, of=walk(800))):
        whole = days(run(bars), "stale_feed")
        for end in (725, 730, 760, 799):
            context, new = bars.take(slice(end - CONTEXT_BARS, end)), bars.take(slice(end, end + 1))
            assert days(run(new, context, since=new.ts[0]), "stale_feed") == [
                day for day in whole if day == end
            ]


def test_a_day_that_was_sent_as_the_next_one_too() -> None:
    columns = {name: column.copy() for name, column in walk().columns().items()}
    for name in ("open", "high", "low", "close", "volume"):
        columns[name][200] = columns[name][199]
    assert days(run(Bars(**columns)), "repeated_bar") == [200]


def test_a_high_far_outside_open_and_close() -> None:
    bars = walk()
    high = bars.high.copy()
    high[200] *= 1.2
    spiked = replace(bars, high=high)
    assert days(run(spiked), "spike") == [200]
    volume = bars.volume.copy()
    volume[200] *= 5
    assert days(run(replace(spiked, volume=volume)), "spike") == []


def test_a_large_move_that_was_traded_on_is_no_outlier() -> None:
    bars = walk()
    moved = {row: bars.close[row] * 1.3 for row in range(200, 300)}
    assert days(run(walk(close=moved)), "outlier") == [200]
    traded = run(walk(close=moved, volume={200: bars.volume[200] * 6}))
    assert (days(traded, "outlier"), days(traded, "large_move")) == ([], [200])


def test_a_volume_counted_by_half_while_its_trades_are_all_counted() -> None:
    bars = walk()
    counted = replace(bars, trades=np.floor(bars.volume / 100))
    assert days(run(counted), "volume_per_trade") == []
    volume = bars.volume.copy()
    volume[200:] /= 2
    assert days(run(replace(counted, volume=volume)), "volume_per_trade") == [200]


@pytest.mark.parametrize(("market", "flagged"), [(-0.12, []), (0.0, [200]), (0.12, [200])])
def test_a_return_that_the_market_made_too_is_no_outlier(market: float, flagged: list[int]) -> None:
    bars = walk()
    moved = walk(close={row: bars.close[row] * 0.88 for row in range(200, 300)})
    window = Window(to_datetime(bars.ts[0]), LATER)
    request = ValidationRequest(
        AssetClass.CRYPTO,
        Timeframe.D1,
        window,
        LATER,
        market_returns={bars.ts[200]: market},
    )
    assert days(validate(moved, request), "outlier") == flagged


def test_a_calm_instrument_in_a_moving_market_is_no_outlier() -> None:
    bars = walk()
    window = Window(to_datetime(bars.ts[0]), LATER)
    market = {bars.ts[200]: -0.12}
    request = ValidationRequest(
        AssetClass.CRYPTO, Timeframe.D1, window, LATER, market_returns=market
    )
    assert validate(bars, request).flags == ()


def test_bars_in_which_nobody_traded_are_not_stale() -> None:
    result = run(_repeated(30, 0.0))
    assert days(result, "stale_run") == []
    assert days(result, "zero_volume") == [101, 110]


@pytest.mark.parametrize("column", ["open", "close", "volume"])
def test_a_broken_overlap_bar_does_not_affect_other_bars(column: str) -> None:
    bars = walk(close={299: 200.0})
    columns = bars.columns()
    columns[column] = columns[column].copy()
    columns[column][290] = np.nan
    sent = Bars(**columns).take(slice(290, None))
    result = run(sent, bars.take(slice(295)), since=sent.ts[0])
    assert [q.ts for q in result.quarantined] == [to_datetime(bars.ts[290])]
    assert days(result, "outlier") == [299]
    stored = run(sent.take(slice(1, None)), Bars(**columns), since=sent.ts[1])
    assert days(stored, "outlier") == [299]


def test_a_stored_bar_that_is_not_sent_again_is_checked_again() -> None:
    bars = walk(close={295: 280.0})
    sent = bars.take(slice(298, None))
    assert days(run(sent, bars, since=bars.ts[290]), "outlier") == [295, 296]
    assert days(run(sent, bars, since=sent.ts[0]), "outlier") == []


@settings(max_examples=60, deadline=None)
@given(
    price=st.floats(0, exclude_min=True, allow_infinity=False),
    volume=st.floats(0, allow_infinity=False),
)
def test_every_bar_that_is_kept_has_features(price: float, volume: float) -> None:
    bars = walk(3)
    columns = bars.columns()
    for name in ("open", "high", "low", "close", "volume"):
        columns[name] = columns[name].copy()
        columns[name][1] = volume if name == "volume" else price
    kept = run(Bars(**columns)).bars
    assert np.isfinite(compute(kept)["obv"]).all()


def test_the_first_bars_of_a_series_are_no_outliers() -> None:
    bars = walk(30, close={10: 280.0, 25: 280.0})
    assert days(run(bars), "outlier") == [25, 26]


def test_the_lookback_of_the_tail_covers_the_context() -> None:
    assert CONTEXT_BARS <= features.LOOKBACK


def _flags(result: ValidationResult) -> list[tuple[Any, ...]]:
    return sorted((f.ts, f.check, f.severity, f.detail) for f in result.flags)


def _in_runs(bars: Bars, cuts: list[int], timeframe: Timeframe, tail: int) -> list[Any]:
    """The flags of runs that each see the stored tail and what came since."""
    flags: list[Any] = []
    for begin, end in zip([0, *cuts], [*cuts, len(bars)], strict=True):
        if begin < end:
            context = bars.take(slice(max(0, begin - tail), begin))
            result = run(
                bars.take(slice(begin, end)), context, since=bars.ts[begin], timeframe=timeframe
            )
            flags += _flags(result)
    return sorted(flags)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_recorded_bars_are_flagged_alike_however_they_are_cut_into_runs(
    stocks: dict[str, Bars], eurusd: Bars, data: st.DataObject
) -> None:
    symbol = data.draw(st.sampled_from([*stocks, "EURUSD"]))
    bars = eurusd if symbol == "EURUSD" else stocks[symbol]
    timeframe = Timeframe.H1 if symbol == "EURUSD" else Timeframe.D1
    cuts = sorted(data.draw(st.lists(st.integers(0, len(bars)), max_size=8)))
    whole = _flags(run(bars, timeframe=timeframe))
    assert _in_runs(bars, cuts, timeframe, CONTEXT_BARS) == whole


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.integers(0, 900), max_size=8),
    blocks=st.lists(
        st.tuples(st.integers(0, 899), st.integers(1, 400), st.sampled_from(["still", "empty"])),
        max_size=4,
    ),
    factor=st.sampled_from([0.5, 0.1, 1.4, 3.0]),
)
@example(seed=0, cuts=[691], blocks=[(1, 202, "empty"), (313, 379, "empty")], factor=0.5)
def test_damaged_bars_are_flagged_alike_however_they_are_cut_into_runs(
    seed: int, cuts: list[int], blocks: list[tuple[int, int, str]], factor: float
) -> None:
    columns = walk(900, seed).columns()
    for first, length, damage in blocks:
        rows = slice(first, first + length)
        if damage == "empty":
            columns["volume"][rows] = 0.0
        else:
            for price in ("open", "high", "low", "close"):
                columns[price] = columns[price].copy()
                columns[price][rows] = columns["close"][first] * (0.9 if price == "low" else 1.0)
    for price in ("open", "high", "low", "close"):
        columns[price] = columns[price].copy()
        columns[price][seed % 900 :] *= factor
    columns["high"] = np.maximum(np.maximum(columns["open"], columns["close"]), columns["high"])
    bars = Bars(**columns)
    whole = _flags(run(bars))
    assert _in_runs(bars, sorted(cuts), Timeframe.D1, CONTEXT_BARS) == whole


def test_later_bars_change_no_flag(stocks: dict[str, Bars]) -> None:
    bars = stocks["AAPL"]
    whole = _flags(run(bars))
    for cut in (79, 149, 150, 1255, 2000):
        last = to_datetime(bars.ts[cut - 1])
        assert _flags(run(bars.take(slice(cut)))) == [f for f in whole if f[0] <= last]
