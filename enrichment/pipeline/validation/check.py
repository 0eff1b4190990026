"""What a check is, and what it gets to see.

>>> from datetime import UTC
>>> year = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
>>> request = ValidationRequest(AssetClass.STOCK, Timeframe.D1, year, now=year.end)
>>> check = BarCheck(
...     CheckStage.BARS, Severity.ERROR, lambda bars, request: bars.close <= 0, "close is {close}"
... )
>>> check.removes_bars, check.function(Bars.empty(), request).tolist()
(True, [])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats, Mask
from enrichment.domain.model import AssetClass, Severity, Timeframe, Window

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """The series and window that the bars were requested for."""

    asset_class: AssetClass
    timeframe: Timeframe
    window: Window
    now: datetime
    # Start of the first bar after each split → new shares for an old one; {}: there was none,
    # None: unknown.
    splits: Mapping[datetime, float] | None = None


class CheckStage(IntEnum):
    """Order in which the checks of bars run; each stage sees what the one before left over."""

    DUPLICATES = 1
    BARS = 2  # one by one
    ORDER = 3  # and bars with the same start
    CALENDAR = 4


@dataclass(frozen=True, slots=True)
class BarCheck:
    """A check of bars as the vendor sent them."""

    stage: CheckStage
    severity: Severity
    function: Callable[[Bars, ValidationRequest], Mask]  # mask of the flagged bars
    message: str  # the flag's detail: a format string with the bar's columns as fields

    @property
    def removes_bars(self) -> bool:
        """Whether flagged bars are kept out of the series."""
        return self.severity is Severity.ERROR or self.stage is CheckStage.DUPLICATES


@dataclass(frozen=True, eq=False)
class SeriesContext:
    """Good bars, ascending and unique, with those that precede them."""

    bars: Bars
    first_checked: int  # rows before it are context only
    cache: dict[str, Any] = field(default_factory=dict)  # intermediate results of several checks

    def cached(self, name: str, compute: Callable[[], T]) -> T:
        """Result of `compute`, which is called once per name."""
        if name not in self.cache:
            self.cache[name] = compute()
        result: T = self.cache[name]
        return result

    @property
    def checked_rows(self) -> NDArray[np.intp]:
        return np.arange(self.first_checked, len(self.bars))


@dataclass(frozen=True, slots=True)
class SeriesCheck:
    """A check of bars against those before them; flagged bars stay in the series."""

    severity: Severity
    # The observed value at each checked row, NaN where it is not flagged. Looks back only, at
    # most `series.CONTEXT_BARS` bars.
    function: Callable[[SeriesContext, ValidationRequest], Floats]
    message: str  # the flag's detail: a format string with the bar's columns and `observed`
