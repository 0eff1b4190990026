"""What a check is, and what it may know beside the bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats
from enrichment.domain.model import AssetClass, Severity, Timeframe, Window

Mask = NDArray[np.bool_]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """What was asked for, and when.

    splits: what is known of splits, as start of the first bar after it → new shares for an old one;
    None where nothing is known.
    """

    asset_class: AssetClass
    timeframe: Timeframe
    window: Window
    now: datetime
    splits: Mapping[datetime, float] | None = None


class CheckStage(IntEnum):
    REPEATS = 1
    BARS = 2
    ORDER = 3
    REMARKS = 4


@dataclass(frozen=True, slots=True)
class BarCheck:
    """A check of bars as they were sent.

    find: bars and request → mask of the bars that it objects to. says: the flag's detail, with
    the bar's columns as fields.
    """

    stage: CheckStage
    severity: Severity
    function: Callable[[Bars, ValidationRequest], Mask]
    message: str

    @property
    def removes_bars(self) -> bool:
        """Whether the bars that it objects to are taken out."""
        return self.severity is Severity.ERROR or self.stage is CheckStage.REPEATS


@dataclass(frozen=True, eq=False)
class SeriesContext:
    """Good bars, ascending and unique, of which those before row `first` are context.

    found: what several checks ask for, once it was computed.
    """

    bars: Bars
    first_checked: int
    cache: dict[str, Any] = field(default_factory=dict)

    def cached(self, name: str, compute: Callable[[], T]) -> T:
        """What `compute` answers, computed for the first check that asks."""
        if name not in self.cache:
            self.cache[name] = compute()
        answer: T = self.cache[name]
        return answer

    @property
    def checked_rows(self) -> NDArray[np.intp]:
        """The rows that are to be judged."""
        return np.arange(self.first_checked, len(self.bars))


@dataclass(frozen=True, slots=True)
class SeriesCheck:
    """A check of bars against those before them. It keeps the bars that it objects to.

    find: series and request → what was observed at each row to be judged, NaN where there is no
    objection. It looks back only, `series.MEMORY` bars at most. says: the flag's detail, with the
    bar's columns and `found` as fields.
    """

    severity: Severity
    function: Callable[[SeriesContext, ValidationRequest], Floats]
    message: str
