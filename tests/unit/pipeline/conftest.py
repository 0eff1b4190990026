"""Real bars. Tests must not change them in place."""

from __future__ import annotations

import pytest

from enrichment.domain.bars import Bars, Floats
from tests.helpers.recorded_series import daily_stocks, hourly_eurusd


@pytest.fixture(scope="session")
def stocks() -> dict[str, Bars]:
    """Symbol → daily bars, not adjusted."""
    return {symbol: series.bars for symbol, series in daily_stocks().items()}


@pytest.fixture(scope="session")
def adjusted_closes() -> dict[str, Floats]:
    return {symbol: series.adjusted_close for symbol, series in daily_stocks().items()}


@pytest.fixture(scope="session")
def eurusd() -> Bars:
    return hourly_eurusd()
