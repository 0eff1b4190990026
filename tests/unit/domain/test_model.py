"""Parsing of symbols and timeframes, and bars as columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, to_datetime, to_datetime64
from enrichment.domain.errors import InvalidRequest
from enrichment.domain.model import AssetClass, Timeframe, is_simulated


def _bars(count: int) -> Bars:
    close = np.arange(count, dtype=float)
    ts = np.datetime64("2024-01-01", "us") + np.arange(count) * np.timedelta64(1, "D")
    return Bars.of(ts, close, close, close, close, close, trades=close)


def test_asset_classes() -> None:
    assert AssetClass.parse(" Crypto ") is AssetClass.CRYPTO
    with pytest.raises(InvalidRequest, match="choose one of stock, etf, crypto"):
        AssetClass.parse("bond")


def test_timeframes_in_ascending_length_and_once() -> None:
    parsed = Timeframe.parse_list("1d, 5m|1D,1h")
    assert parsed == (Timeframe.M5, Timeframe.H1, Timeframe.D1)
    assert [t.duration for t in Timeframe] == sorted(t.duration for t in Timeframe)
    assert [t for t in Timeframe if not t.intraday] == [Timeframe.D1, Timeframe.W1]


@pytest.mark.parametrize("text", ["", ",|", "2h", "1d,soon"])
def test_malformed_timeframes(text: str) -> None:
    with pytest.raises(InvalidRequest, match="choose from 5m, 15m"):
        Timeframe.parse_list(text)


@pytest.mark.parametrize(
    ("symbol", "simulated"),
    [("SIM1", True), ("X:SIM12USD", True), ("SIMO", False), ("AAPL", False), ("SIM", False)],
)
def test_simulated_series(symbol: str, simulated: bool) -> None:
    assert is_simulated(symbol) is simulated


def test_datetime_round_trip() -> None:
    moment = datetime(2024, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    assert to_datetime(to_datetime64(moment)) == moment
    tokyo = moment.astimezone(timezone(timedelta(hours=9)))
    assert to_datetime64(tokyo) == to_datetime64(moment)
    assert to_datetime(np.datetime64("2024-01-02", "D")) == datetime(2024, 1, 2, tzinfo=UTC)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="equal length"):
        Bars.of(np.empty(2, "datetime64[us]"), *(np.empty(1) for _ in range(5)))


def test_optional_columns_are_unknown() -> None:
    bars = _bars(3)
    assert np.isnan(bars.vwap).all()
    assert np.isnan(bars.taker_buy_volume).all()
    assert bars.trades.tolist() == [0, 1, 2]
    assert list(bars.columns())[:6] == ["ts", "open", "high", "low", "close", "volume"]


def test_rows_by_mask_index_and_slice() -> None:
    bars = _bars(5)
    for selection in (
        np.array([False, True, False, True, False]),
        np.array([1, 3]),
        slice(1, 4, 2),
    ):
        assert bars.take(selection).close.tolist() == [1, 3]
    assert len(Bars.empty()) == 0


def test_concat() -> None:
    bars = _bars(4)
    joined = bars.take(slice(2)).concat(bars.take(slice(2, None)))
    for name, column in joined.columns().items():
        np.testing.assert_array_equal(column, bars.columns()[name])


rows = st.sets(st.integers(0, 11)).map(lambda selection: np.array(sorted(selection), dtype=np.intp))


@given(stored=rows, sent=rows)
def test_overlaid_by_and_missing_from(stored: NDArray[np.intp], sent: NDArray[np.intp]) -> None:
    below, above = _bars(12).take(stored), _bars(12).take(sent)
    above.close[:] += 100
    merged = below.overlaid_by(above)
    expected = {int(row): row for row in stored} | {int(row): row + 100 for row in sent}
    assert merged.close.tolist() == [expected[row] for row in sorted(expected)]
    assert below.missing_from(above).tolist() == [row not in sent for row in stored]
