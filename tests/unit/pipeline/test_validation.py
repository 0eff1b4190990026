"""Every check, what becomes of flagged bars, and gaps against the calendar."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.domain.bars import Bars, Timestamps, to_datetime
from enrichment.domain.model import AssetClass, Severity, Timeframe, ValidationResult, Window
from enrichment.pipeline.validation import CHECKS, validate
from enrichment.pipeline.validation.bars import BarCheck, ValidationRequest, all_valid
from enrichment.pipeline.validation.missing import missing_bars

NOW = datetime(2024, 1, 20, 12, tzinfo=UTC)  # a Saturday
MONTH = Window(datetime(2024, 1, 1, tzinfo=UTC), NOW)
DAYS = ["2024-01-08", "2024-01-09", "2024-01-10", "2024-01-11", "2024-01-12"]


def _stamps(*texts: str) -> Timestamps:
    return np.array(texts, dtype="datetime64[us]")


def _bars(ts: Timestamps, **changed: float | list[float]) -> Bars:
    """Bars of 10, about 12, 9, 11 and 100 units, with the given columns replaced in the middle row
    (by a number) or whole (by a list).
    """
    columns = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 100.0}
    arrays = {name: np.full(len(ts), value) for name, value in columns.items()}
    arrays["high"] += ts.astype("datetime64[D]").astype(int) % 50 / 1000
    for name, value in changed.items():
        if isinstance(value, list):
            arrays[name] = np.array(value, dtype=float)
        else:
            arrays[name][len(ts) // 2] = value
    return Bars.of(ts, **arrays)


def _validate(
    bars: Bars,
    asset_class: AssetClass = AssetClass.STOCK,
    timeframe: Timeframe = Timeframe.D1,
    window: Window = MONTH,
    now: datetime = NOW,
) -> ValidationResult:
    return validate(bars, ValidationRequest(asset_class, timeframe, window, now))


def _flags(result: ValidationResult) -> list[tuple[str, Severity, str]]:
    return [(f.check, f.severity, f"{f.ts:%d %H:%M}") for f in result.flags]


def test_good_bars_pass_as_they_are() -> None:
    bars = _bars(_stamps(*DAYS))
    result = _validate(bars)
    assert (result.flags, result.quarantined) == ((), ())
    for name, column in result.bars.columns().items():
        np.testing.assert_array_equal(column, bars.columns()[name])


@pytest.mark.parametrize(
    ("changed", "checks"),
    [
        ({"close": np.nan}, ["non_finite_price"]),
        ({"open": np.inf}, ["non_finite_price", "ohlc"]),
        ({"low": -np.inf}, ["non_finite_price", "non_positive_price"]),
        ({"low": 0.0}, ["non_positive_price"]),
        ({"low": -1.0, "open": -0.5}, ["non_positive_price"]),
        ({"low": 1e-300}, ["extreme_value"]),
        ({"high": 1e300}, ["extreme_value"]),
        ({"volume": 1e300}, ["extreme_value"]),
        ({"high": 10.5}, ["ohlc"]),
        ({"low": 10.5}, ["ohlc"]),
        ({"high": 8.0}, ["ohlc"]),
        ({"volume": -1.0}, ["negative_volume"]),
        ({"volume": np.nan}, ["negative_volume"]),
        ({"volume": np.inf, "close": np.nan}, ["non_finite_price", "negative_volume"]),
    ],
)
def test_a_bad_bar_is_quarantined_with_every_reason(
    changed: dict[str, float | list[float]], checks: list[str]
) -> None:
    bars = _bars(_stamps(*DAYS), **changed)
    result = _validate(bars)
    assert _flags(result) == [(check, Severity.ERROR, "10 00:00") for check in checks]
    (quarantined,) = result.quarantined
    assert (quarantined.check, quarantined.ts) == (checks[0], datetime(2024, 1, 10, tzinfo=UTC))
    for name, value in changed.items():
        sent = float(np.asarray(value))
        assert quarantined.bar[name] == (sent if np.isfinite(sent) else None)
    assert result.bars.ts.tolist() == np.delete(bars.ts, 2).tolist()


def test_the_detail_names_the_values() -> None:
    result = _validate(_bars(_stamps(*DAYS), high=10.5))
    assert result.flags[0].detail == (
        "high and low do not enclose the bar: open 10, high 10.5, low 9, close 11"
    )


@pytest.mark.parametrize(
    ("timeframe", "asset_class", "start", "aligned"),
    [
        (Timeframe.D1, AssetClass.STOCK, "2024-01-10T05:00", False),
        (Timeframe.W1, AssetClass.STOCK, "2024-01-09", False),
        (Timeframe.W1, AssetClass.STOCK, "2024-01-08", True),
        (Timeframe.H1, AssetClass.STOCK, "2024-01-10T14:30", False),
        (Timeframe.H1, AssetClass.STOCK, "2024-01-10T14:00", True),
        (Timeframe.M5, AssetClass.STOCK, "2024-01-10T14:32", False),
        (Timeframe.M5, AssetClass.CRYPTO, "2024-01-10T14:35", True),
        (Timeframe.M5, AssetClass.CRYPTO, "2024-01-10T14:35:00.000001", False),
        (Timeframe.H4, AssetClass.CRYPTO, "2024-01-10T16:00", True),
        (Timeframe.H4, AssetClass.STOCK, "2024-01-10T16:00", False),
        (Timeframe.H4, AssetClass.STOCK, "2024-01-10T17:00", True),
    ],
)
def test_bars_off_the_timeframe_are_misaligned(
    timeframe: Timeframe, asset_class: AssetClass, start: str, aligned: bool
) -> None:
    result = _validate(_bars(_stamps(start)), asset_class, timeframe)
    assert [f.check for f in result.flags] == ([] if aligned else ["misaligned"])
    assert len(result.bars) == aligned


def test_bars_outside_the_window_or_in_the_future_are_quarantined() -> None:
    window = Window(datetime(2024, 1, 9, tzinfo=UTC), datetime(2024, 1, 11, tzinfo=UTC))
    ts = _stamps("2024-01-08", "2024-01-09", "2024-01-10", "2024-01-11", "2099-01-05")
    result = _validate(_bars(ts), window=window)
    assert [q.check for q in result.quarantined] == ["outside_window"] * 3
    assert result.bars.ts.tolist() == _stamps("2024-01-09", "2024-01-10").tolist()
    late = Window(MONTH.start, NOW + timedelta(days=30))
    assert [q.check for q in _validate(_bars(_stamps("2024-01-22")), window=late).quarantined] == [
        "outside_window"
    ]


@pytest.mark.parametrize(
    ("asset_class", "timeframe", "start", "now", "complete"),
    [
        (AssetClass.STOCK, Timeframe.D1, "2024-01-10", "2024-01-10T20:59", False),
        (AssetClass.STOCK, Timeframe.D1, "2024-01-10", "2024-01-10T21:00", True),
        (AssetClass.STOCK, Timeframe.W1, "2024-01-08", "2024-01-12T20:59", False),
        (AssetClass.STOCK, Timeframe.W1, "2024-01-08", "2024-01-12T21:00", True),
        (AssetClass.STOCK, Timeframe.M5, "2024-01-10T15:00", "2024-01-10T15:04:59", False),
        (AssetClass.STOCK, Timeframe.M5, "2024-01-10T15:00", "2024-01-10T15:05", True),
        (AssetClass.CRYPTO, Timeframe.D1, "2024-01-10", "2024-01-10T23:59", False),
        (AssetClass.CRYPTO, Timeframe.D1, "2024-01-10", "2024-01-11", True),
    ],
)
def test_the_forming_bar_is_dropped_without_a_flag(
    asset_class: AssetClass, timeframe: Timeframe, start: str, now: str, complete: bool
) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    window = Window(MONTH.start, moment)
    bars = _bars(_stamps(start), close=11.0 if complete else np.nan)
    result = _validate(bars, asset_class, timeframe, window, moment)
    assert len(result.bars) == complete
    assert (result.flags, result.quarantined) == ((), ())


def test_an_exact_repeat_is_dropped() -> None:
    bars = _bars(_stamps(DAYS[0], DAYS[1], DAYS[1], DAYS[1], DAYS[2]))
    result = _validate(bars)
    assert _flags(result) == [("duplicate", Severity.WARNING, "09 00:00")]
    assert result.quarantined == ()
    assert result.bars.ts.tolist() == _stamps(*DAYS[:3]).tolist()


def test_of_contradicting_bars_the_last_sent_is_kept() -> None:
    bars = _bars(_stamps(DAYS[0], DAYS[1], DAYS[1], DAYS[1]), close=[11, 11.1, 11.2, 11.3])
    result = _validate(bars)
    assert _flags(result) == [("conflict", Severity.ERROR, "09 00:00")]
    assert [q.bar["close"] for q in result.quarantined] == [11.1, 11.2]
    assert result.bars.close.tolist() == [11, 11.3]


def test_a_bad_bar_sent_last_does_not_displace_a_good_one() -> None:
    bars = _bars(_stamps(DAYS[0], DAYS[1], DAYS[1]), close=[11, 11.1, np.nan])
    result = _validate(bars)
    assert [f.check for f in result.flags] == ["non_finite_price"]
    assert result.bars.close.tolist() == [11, 11.1]


def test_a_bar_sent_again_after_its_contradiction_is_kept() -> None:
    bars = _bars(_stamps(DAYS[1], DAYS[1], DAYS[1]), close=[11.1, 11.2, 11.1])
    result = _validate(bars)
    assert [f.check for f in result.flags] == ["duplicate", "conflict"]
    assert [q.bar["close"] for q in result.quarantined] == [11.2]
    assert result.bars.close.tolist() == [11.1]


def test_bars_out_of_order_are_sorted() -> None:
    bars = _bars(_stamps(DAYS[0], DAYS[2], DAYS[1], DAYS[3]), close=[10, 11, 11.5, 12])
    result = _validate(bars)
    assert _flags(result) == [("out_of_order", Severity.WARNING, "09 00:00")]
    assert result.bars.close.tolist() == [10, 11.5, 11, 12]


def test_a_future_stamp_does_not_put_the_others_out_of_order() -> None:
    result = _validate(_bars(_stamps(DAYS[0], "2099-01-05", DAYS[1])))
    assert [f.check for f in result.flags] == ["outside_window"]


def test_a_flag_below_error_keeps_the_bar() -> None:
    result = _validate(_bars(_stamps(*DAYS[:3]), volume=0.0))
    assert _flags(result) == [("zero_volume", Severity.INFO, "09 00:00")]
    assert len(result.bars) == 3


@pytest.mark.parametrize("day", ["2024-01-13", "2024-01-15"])
def test_a_bar_on_a_day_without_session(day: str) -> None:
    result = _validate(_bars(_stamps("2024-01-12", day, "2024-01-16")))
    assert _flags(result) == [("no_session", Severity.WARNING, f"{day[-2:]} 00:00")]
    assert len(result.bars) == 3
    assert _validate(_bars(_stamps(day)), AssetClass.CRYPTO).flags == ()


def test_an_empty_response_has_no_flags() -> None:
    for timeframe in Timeframe:
        result = _validate(Bars.empty(), timeframe=timeframe)
        assert len(result.bars) == len(result.flags) == len(result.quarantined) == 0


@settings(deadline=None)
@given(
    days=st.lists(st.integers(0, 20), max_size=6),
    moved=st.sampled_from(["0h", "1h", "12h", "-400D", "400D"]),
    column=st.sampled_from(["open", "high", "low", "close", "volume"]),
    value=st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-300, 5.0, 9.5, 11.0, 1e16, 1e31]),
    asset_class=st.sampled_from([AssetClass.STOCK, AssetClass.CRYPTO]),
    timeframe=st.sampled_from([Timeframe.H1, Timeframe.D1, Timeframe.W1]),
)
def test_bars_are_all_valid_exactly_if_no_check_flags_them(
    days: list[int],
    moved: str,
    column: str,
    value: float,
    asset_class: AssetClass,
    timeframe: Timeframe,
) -> None:
    ts = _stamps("2024-01-01") + np.array(days, dtype="timedelta64[D]")
    ts[-1:] += np.timedelta64(int(moved[:-1]), moved[-1])
    bars = _bars(ts, **({column: value} if days else {}))
    request = ValidationRequest(asset_class, timeframe, MONTH, NOW)
    checks = [check for check in CHECKS.values() if isinstance(check, BarCheck)]
    assert all_valid(bars, request) == (not any(c.function(bars, request).any() for c in checks))


def test_every_check_is_named_after_its_function_and_states_its_formula() -> None:
    assert all(
        check.function.__name__ == name and check.function.__doc__ for name, check in CHECKS.items()
    )


@settings(max_examples=60, deadline=None)
@given(
    days=st.lists(st.integers(0, 25), max_size=30),
    closes=st.lists(st.sampled_from([9.5, 11.0, 99.0, np.nan]), min_size=30, max_size=30),
)
def test_every_bar_is_kept_or_quarantined(days: list[int], closes: list[float]) -> None:
    ts = np.datetime64("2024-01-01", "us") + np.array(days, dtype="timedelta64[D]")
    bars = _bars(ts.astype("datetime64[us]"), close=closes[: len(ts)])
    result = _validate(bars, AssetClass.CRYPTO)
    assert (result.bars.ts[1:] > result.bars.ts[:-1]).all()
    quarantined = Counter(q.ts for q in result.quarantined)
    flagged = {f.ts for f in result.flags if f.severity is Severity.ERROR}
    assert set(quarantined) == flagged
    sent = {to_datetime(t) for t in bars.ts}
    kept = {to_datetime(t) for t in result.bars.ts}
    forming = {datetime(2024, 1, 20, tzinfo=UTC)}
    assert kept | set(quarantined) | (forming & sent) == sent


def test_recorded_stocks_have_no_error_and_no_gap(stocks: dict[str, Bars]) -> None:
    end = datetime(2013, 3, 2, tzinfo=UTC)
    for bars in stocks.values():
        start = to_datetime(bars.ts[0])
        result = _validate(bars, window=Window(start, end), now=end)
        assert Severity.ERROR not in {f.severity for f in result.flags}
        assert result.quarantined == ()
        assert len(result.bars) == len(bars)
        stock = AssetClass.STOCK
        assert len(missing_bars(stock, Timeframe.D1, result.bars.ts, start, end)) == 0


def test_seconds_read_as_milliseconds_are_recognised() -> None:
    meant = np.datetime64("1970-01-01", "us") + (_stamps(*DAYS) - _stamps("1970-01-01")) // 1000
    result = _validate(_bars(meant.astype("datetime64[us]")), timeframe=Timeframe.H1)
    assert len(result.bars) == 0
    assert {q.check for q in result.quarantined} == {"epoch_unit"}
    assert "seconds where milliseconds belong" in result.quarantined[0].detail
    mixed = _validate(_bars(_stamps("1970-01-20", *DAYS)))
    assert [f.check for f in mixed.flags] == ["outside_window"]


def test_one_repeated_and_one_missing_session_are_both_reported() -> None:
    sent = _bars(_stamps(DAYS[0], DAYS[1], DAYS[1], DAYS[3], DAYS[4]))
    result = _validate(sent)
    assert _flags(result) == [("duplicate", Severity.WARNING, "09 00:00")]
    gaps = missing_bars(
        AssetClass.STOCK,
        Timeframe.D1,
        result.bars.ts,
        datetime(2024, 1, 8, tzinfo=UTC),
        datetime(2024, 1, 12, 22, tzinfo=UTC),
    )
    assert gaps.tolist() == _stamps(DAYS[2]).tolist()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_removed_sessions_are_exactly_the_gaps(
    stocks: dict[str, Bars], data: st.DataObject
) -> None:
    ts = stocks["IBM"].ts
    removed = sorted(data.draw(st.sets(st.integers(1, len(ts) - 1), max_size=50)))
    start, now = to_datetime(ts[0]), datetime(2013, 3, 2, tzinfo=UTC)
    gaps = missing_bars(AssetClass.STOCK, Timeframe.D1, np.delete(ts, removed), start, now)
    assert gaps.tolist() == ts[removed].tolist()


def test_one_missing_and_one_extra_do_not_cancel() -> None:
    stored = _stamps("2024-01-08", "2024-01-08", "2024-01-10", "2024-01-13")
    gaps = missing_bars(
        AssetClass.STOCK,
        Timeframe.D1,
        stored,
        datetime(2024, 1, 8, tzinfo=UTC),
        datetime(2024, 1, 10, 22, tzinfo=UTC),
    )
    assert gaps.tolist() == _stamps("2024-01-09").tolist()


def test_bars_that_have_not_ended_are_not_missing() -> None:
    start = datetime(2024, 1, 9, 14, tzinfo=UTC)
    gaps = missing_bars(
        AssetClass.CRYPTO,
        Timeframe.H1,
        _stamps(),
        start,
        datetime(2024, 1, 9, 16, 30, tzinfo=UTC),
    )
    assert gaps.tolist() == _stamps("2024-01-09T14:00", "2024-01-09T15:00").tolist()
    assert len(missing_bars(AssetClass.STOCK, Timeframe.H1, _stamps(), start, start)) == 0
