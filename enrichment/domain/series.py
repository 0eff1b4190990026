"""One series between two runs: what is known of it, and what a run made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Timestamps
from enrichment.domain.model import FetchedBars, Flag, Quality, Timeframe, ValidationResult, Window


def no_timestamps() -> Timestamps:
    return np.empty(0, "datetime64[us]")


@dataclass(frozen=True, slots=True, eq=False)
class StoredTail:
    """The stored bars from some moment on, ascending, after some that lend their past to them.

    carried: the values of the cumulative features at the first bar; empty where the tail begins
    with the series itself. bare: whether those that lend their past were left out.
    """

    bars: Bars = field(default_factory=Bars.empty)
    cumulative_seed: Mapping[str, float] = field(default_factory=dict)
    without_lookback: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class SeriesSnapshot:
    """What the warehouse knows of a series before a run, without its bars.

    bars: how many are stored, from first_ts to last_ts. overlap_from: start of the newest few,
    which are asked for again. history_from: the earliest moment that was ever asked for. source,
    adjusted: of the last run. gaps: open gaps; due: those of them whose next attempt is due.
    flagged: (start, check) of the flags that count against the score; doubted: start of the newest
    bar with a flag that is more than a remark. confirmed: (start, check) that an analyst called
    real. untraded: missing bars of which another source says that nobody traded. complete: whether
    every stored bar has a value of every present feature. coverage: feature values past their
    warm-up that the last run has seen, and how many were NULL. tail: the bars from overlap_from on,
    where they were read along with it.
    """

    bars: int = 0
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    overlap_from: datetime | None = None
    history_from: datetime | None = None
    source: str | None = None
    adjusted: bool | None = None
    gaps: Timestamps = field(default_factory=no_timestamps)
    gaps_due: Timestamps = field(default_factory=no_timestamps)
    flagged: frozenset[tuple[datetime, str]] = frozenset()
    newest_flagged: datetime | None = None
    confirmed: frozenset[tuple[datetime, str]] = frozenset()
    no_trade_ts: frozenset[datetime] = frozenset()
    features_current: bool = True
    coverage: tuple[int, int] | None = None
    tail: StoredTail | None = None

    @property
    def overlap_trusted(self) -> bool:
        """Whether there is an overlap that nothing doubts, and a coverage to go on from."""
        if self.overlap_from is None or self.coverage is None:
            return False
        return self.newest_flagged is None or self.newest_flagged < self.overlap_from


@dataclass(frozen=True, slots=True, eq=False)
class FetchResult:
    """One fetch with what validation made of it; `failure` says why there is nothing.

    cause: why bars that are still missing in the window are missing. same: whether it only says
    what is stored, so that nothing is to be judged again.
    """

    window: Window
    fetched: FetchedBars | None
    milliseconds: float
    validation: ValidationResult = field(default_factory=lambda: ValidationResult(Bars.empty()))
    failure: str | None = None
    cause: str = "unexplained"
    unchanged: bool = False

    @property
    def replaces_findings(self) -> bool:
        """Whether what was found in its window takes the place of what was known of it."""
        return self.failure is None and not self.unchanged

    @property
    def source(self) -> str:
        return self.fetched.source if self.fetched is not None else "none"


@dataclass(frozen=True, slots=True)
class Rebase:
    """The vendor put a history on another basis: prices up to the bar at `until` were multiplied by
    `factor`. ts: the first bar after it, or that bar where there is none yet.
    """

    factor: float
    until: datetime
    ts: datetime


@dataclass(frozen=True, slots=True)
class Gap:
    """An expected bar that is not stored, and why, as far as this run can tell."""

    ts: datetime
    cause: str = "unexplained"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class FlagCount:
    """A check that objects to bars: how many, and the newest of them as examples."""

    bars: int
    at: Sequence[datetime] = ()


@dataclass(frozen=True, slots=True)
class QualityInputs:
    """What is known of a series.

    expected, missing, untraded: bars that the calendar has, those of them that are lost, and those
    that a thinly traded series never had. checked: bars that validation saw; objections: check →
    its bars among them, each bar under one check only. feature_cells, feature_nulls: feature values
    past their warm-up, and those that are NULL. sessions_behind: sessions since the newest bar.
    missing_at: the newest of the missing bars.
    """

    expected: int
    missing: int
    checked: int
    feature_cells: int
    feature_nulls: int
    sessions_behind: int
    no_trades: int = 0
    flag_counts: Mapping[str, FlagCount] = field(default_factory=dict)
    missing_at: Sequence[datetime] = ()

    @property
    def flagged_bars(self) -> int:
        """Checked bars that some check objects to."""
        return sum(objection.bars for objection in self.flag_counts.values())


@dataclass(frozen=True, slots=True, eq=False)
class SeriesUpdate:
    """One timeframe of a task, ready to be written.

    downloads: the fetches of this run, the main one first; their windows are what it judges.
    bars, features: the rows from the first new or changed one on, aligned; empty if nothing
    changed. flags: everything found in the windows. gaps: bars missing there after this run.
    history_from: the earliest moment asked for so far. evidence: what the quality rests on.
    appends: whether all of its bars lie behind those stored.
    """

    timeframe: Timeframe
    fetches: Sequence[FetchResult]
    bars: Bars
    features: Mapping[str, NDArray[Any]]
    compute_ms: float
    flags: Sequence[Flag]
    gaps: Sequence[Gap]
    quality: Quality
    quality_inputs: QualityInputs
    history_from: datetime
    rebase: Rebase | None = None
    appends: bool = False

    @property
    def as_of(self) -> datetime:
        """The moment up to which this run speaks: the latest end of its windows."""
        return max(download.window.end for download in self.fetches)

    @property
    def fetched(self) -> FetchedBars:
        """The main fetch, which decides on the series' source."""
        main = self.fetches[0].fetched
        if main is None:
            raise ValueError("a run without its main fetch has nothing to write")
        return main
