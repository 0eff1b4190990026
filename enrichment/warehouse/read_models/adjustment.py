"""Factors that put stored bars and features on the basis that a reader asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from enrichment.domain.bars import PRICES, Floats, Timestamps, to_datetime64
from enrichment.domain.calendars import market_of
from enrichment.domain.corporate_actions import Adjustment, first_starts
from enrichment.domain.model import AssetClass, Timeframe
from enrichment.pipeline.features import FEATURES
from enrichment.warehouse.database import sql

_BEGINNING = np.datetime64("0001-01-01", "us")
_SCALES = {
    **dict.fromkeys((*PRICES, "vwap"), "price"),
    **dict.fromkeys(("volume", "taker_buy_volume"), "volume"),
    **{name: feature.scale for name, feature in FEATURES.items()},
}


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Factors of one series that are constant between bounds: n bounds, n + 1 parts."""

    bounds: Timestamps  # first possible start of a bar in each part but the first, ascending
    price: Floats
    volume: Floats

    def of(self, column: str) -> Floats | None:
        """The factors of a column; None for one that is the same on every basis."""
        scale = _SCALES.get(column)
        factors = self.price if scale == "price" else self.volume if scale == "volume" else None
        return None if factors is None or (factors == 1.0).all() else factors

    def apply(self, name: str, ts: Timestamps, column: NDArray[Any]) -> NDArray[Any]:
        """A column of bars with these starts on the basis that was asked for."""
        factors = self.of(name)
        if factors is None:
            return column
        return np.asarray(column * factors[self.bounds.searchsorted(ts, side="right")])


def read_factors(
    conn: Connection, symbol: str, timeframe: Timeframe, adjustment: Adjustment
) -> Factors:
    """The factors of a series; all 1 for one without corporate actions.

    Features are computed from prices without dividends: on the basis `total` those that scale with
    the price are multiplied like prices, and returns stay those without dividends.
    """
    values = {"symbol": symbol, "timeframe": timeframe.value}
    if adjustment is Adjustment.NONE and conn.execute(sql(_AS_TRADED), values).scalar_one():
        return AS_TRADED
    series, *_ = found = conn.execute(sql(_FACTORS), values).all()
    rows = [row for row in found if row.valid_to is not None]
    days = np.array([row.valid_to for row in rows[:-1]], "datetime64[us]")
    market = market_of(symbol, AssetClass(series.asset_class or AssetClass.STOCK))
    starts = first_starts(days, timeframe, market)
    split, total = (
        np.array([getattr(row, name) for row in rows] or [1.0])
        for name in ("split_factor", "total_factor")
    )
    until = series.adjusted_until
    bounds = starts if until is None else np.union1d(starts, to_datetime64(until))
    of_part = np.append(_BEGINNING, bounds)  # a moment in each part
    at = starts.searchsorted(of_part, side="right")
    as_traded = np.ones(len(of_part))
    stored = as_traded
    if until is not None:  # bars from before are adjusted for the splits up to then
        basis = np.maximum(of_part, to_datetime64(until))
        stored = split[at] / split[starts.searchsorted(basis, side="right")]
    shares = as_traded if adjustment is Adjustment.NONE else split[at]
    price = total[at] if adjustment is Adjustment.TOTAL else shares
    return Factors(bounds, price / stored, stored / shares)


AS_TRADED = Factors(np.empty(0, "datetime64[us]"), np.ones(1), np.ones(1))

_ADJUSTED = """
SELECT adjusted_until FROM enrichment_status WHERE symbol = :symbol AND timeframe = :timeframe
"""

_AS_TRADED = f"SELECT ({_ADJUSTED}) IS NULL"

_FACTORS = f"""
SELECT (SELECT asset_class FROM tracked_symbols WHERE symbol = :symbol) AS asset_class,
    ({_ADJUSTED}) AS adjusted_until, valid_to, split_factor, total_factor
FROM (SELECT) one LEFT JOIN adjustment_factors_of(:symbol) f ON true ORDER BY valid_from
"""
