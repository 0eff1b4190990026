"""Labels against their definitions, written out bar by bar."""

from __future__ import annotations

import numpy as np
import pytest

from enrichment.domain.bars import Bars, Floats
from enrichment.pipeline.features import compute


def _bars(close: Floats, spread: float = 0.5) -> Bars:
    ts = np.datetime64("2024-01-01", "us") + np.arange(len(close)) * np.timedelta64(1, "D")
    volume = np.ones(len(close))
    return Bars.of(ts, close, close + spread, close - spread, close, volume)


def _zigzag(drift: float, count: int = 200) -> Floats:
    """Waves of 20 bars on a slope."""
    rows = np.arange(count)
    return 1000 + drift * rows + 10 * np.abs((rows % 20) - 10.0)


@pytest.mark.parametrize(
    ("drift", "direction"), [(2.0, "up"), (-2.0, "down"), (0.0, "neutral"), (1e-3, "neutral")]
)
def test_direction_of_a_straight_line(drift: float, direction: str) -> None:
    labels = compute(_bars(1000 + drift * np.arange(120.0)))["trend_direction"]
    assert labels[:49].tolist() == [None] * 49
    assert set(labels[49:]) == {direction}


def test_direction_by_its_formula(stocks: dict[str, Bars]) -> None:
    bars = stocks["MSFT"]
    labels = compute(bars)["trend_direction"]
    for row in range(49, len(bars), 7):
        fast, slow = bars.close[row - 19 : row + 1].mean(), bars.close[row - 49 : row + 1].mean()
        before = bars.close[row - 20 : row]
        highs, lows = bars.high[row - 19 : row + 1], bars.low[row - 19 : row + 1]
        band = 0.5 * (np.maximum(highs, before) - np.minimum(lows, before)).mean()
        expected = "up" if fast - slow > band else "down" if fast - slow < -band else "neutral"
        assert labels[row] == expected, row
    assert set(labels[49:]) == {"up", "down", "neutral"}


@pytest.mark.parametrize(
    ("drift", "structure"), [(1.0, "bullish"), (-1.0, "bearish"), (0.0, "range")]
)
def test_structure_of_waves_on_a_slope(drift: float, structure: str) -> None:
    labels = compute(_bars(_zigzag(drift)))["market_structure"]
    assert labels[:49].tolist() == [None] * 49
    assert set(labels[60:]) == {structure}


def test_structure_is_forgotten_when_swings_end() -> None:
    waves = _zigzag(1.0, 100)
    line = waves[-1] + np.arange(1.0, 151.0)
    labels = compute(_bars(np.append(waves, line)))["market_structure"]
    assert labels[105] == "bullish"
    assert set(labels[200:]) == {"range"}


def _swing_step(extreme: Floats, row: int) -> float:
    """Newest swing high less the one before it, within the 100 bars up to `row`."""
    seen = extreme[max(0, row - 99) : row + 1]
    swings = [
        seen[i]
        for i in range(5, len(seen) - 5)
        if seen[i] > seen[i - 5 : i].max() and seen[i] >= seen[i + 1 : i + 6].max()
    ]
    return float(swings[-1] - swings[-2]) if len(swings) >= 2 else 0.0


@pytest.mark.parametrize("symbol", ["AAPL", "FB"])
def test_structure_by_its_definition(stocks: dict[str, Bars], symbol: str) -> None:
    bars = stocks[symbol].take(slice(1_000))
    labels = compute(bars)["market_structure"]
    for row in range(49, len(bars)):
        high, low = _swing_step(bars.high, row), -_swing_step(-bars.low, row)
        rising, falling = high > 0 and low > 0, high < 0 and low < 0
        assert labels[row] == ("bullish" if rising else "bearish" if falling else "range"), row
    assert set(labels[49:]) == {"bullish", "bearish", "range"}
