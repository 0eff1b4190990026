"""One series before and after a run: what is stored of it, what was fetched, what is to be written.

>>> from dataclasses import replace
>>> snapshot = SeriesSnapshot(bars=250, overlap_from=datetime(2024, 1, 2), coverage=(5_000, 0))
>>> snapshot.overlap_trusted
True
>>> replace(snapshot, newest_flagged=datetime(2024, 1, 3)).overlap_trusted
False
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Timestamps, no_timestamps
from enrichment.domain.corporate_actions import Split
from enrichment.domain.model import (
    FetchedBars,
    Flag,
    Quality,
    StockSession,
    Timeframe,
    ValidationResult,
    Window,
)
from enrichment.domain.statuses import GapCause, HistoryLimit


@dataclass(frozen=True, slots=True, eq=False)
class StoredTail:
    """The newest stored bars of a series, preceded by the lookback of their features."""

    bars: Bars = field(default_factory=Bars.empty)  # ascending
    # Stored values of the cumulative features at the first bar; empty if it begins the series.
    cumulative_seed: Mapping[str, float] = field(default_factory=dict)
    without_lookback: bool = False  # the lookback was not read


NO_TAIL = StoredTail()


@dataclass(frozen=True, slots=True, eq=False)
class SeriesSnapshot:
    """State of a series before a run, without most of its bars. The default is an empty series."""

    bars: int = 0  # number of stored bars
    first_ts: datetime | None = None  # start of the oldest stored bar
    last_ts: datetime | None = None  # start of the newest stored bar
    overlap_from: datetime | None = None  # start of the newest bars, which each run fetches again
    history_from: datetime | None = None  # earliest start that was ever served
    wanted_from: datetime | None = None  # earliest start that was ever requested
    history_limit: HistoryLimit | None = None  # why they differ; None: it is not known
    history_due: bool = True  # whether what lies between them is to be requested again
    source: str | None = None  # vendor of the last run
    adjusted_until: datetime | None = None  # prices before are adjusted for splits up to then
    splits: Sequence[Split] = ()  # of the instrument, that have taken effect
    disputed: Sequence[tuple[date, str]] = ()  # splits on which vendors disagree, and how
    restores_raw: bool = False  # adjusted, and the splits since its first bar are known
    gaps: Timestamps = field(default_factory=no_timestamps)  # open gaps
    gaps_due: Timestamps = field(default_factory=no_timestamps)  # those due for another attempt
    doubted: Timestamps = field(default_factory=no_timestamps)  # not sent again by the last run
    session: StockSession = StockSession.REGULAR  # the hours of its bars
    compared_at: datetime | None = None  # when the whole history was last compared or fetched
    rejected: Timestamps = field(default_factory=no_timestamps)  # by an analyst: not to be stored
    flagged: frozenset[tuple[datetime, str]] = frozenset()  # (ts, check) that lower the score
    newest_flagged: datetime | None = None  # newest bar with a warning or an error
    confirmed: frozenset[tuple[datetime, str]] = frozenset()  # (ts, check) confirmed as real
    no_trade_ts: frozenset[datetime] = frozenset()  # missing because nobody traded
    features_current: bool = True  # whether every bar has values of the present set of features
    coverage: tuple[int, int] | None = None  # feature values past warm-up, and how many are NULL
    tail: StoredTail | None = None  # bars from overlap_from on, if they were read as well
    # Start of a bar of the overlap → median log return of the market, where it is known.
    market_returns: Mapping[np.datetime64, float] = field(default_factory=dict)

    @property
    def overlap_trusted(self) -> bool:
        """Whether no bar of the overlap is flagged and the coverage is known."""
        if self.overlap_from is None or self.coverage is None:
            return False
        return self.newest_flagged is None or self.newest_flagged < self.overlap_from


NOT_VALIDATED = ValidationResult(Bars.empty())


@dataclass(frozen=True, slots=True, eq=False)
class FetchResult:
    """One request to a vendor with the validation of its response."""

    window: Window
    fetched: FetchedBars | None  # None if the request failed
    milliseconds: float
    validation: ValidationResult = NOT_VALIDATED
    failure: str | None = None  # message of the error, if the request failed
    cause: GapCause = GapCause.UNEXPLAINED  # of bars that are still missing in the window
    unchanged: bool = False  # the response equals the stored bars, so it was not validated again

    @property
    def replaces_findings(self) -> bool:
        """Whether its flags and gaps replace those stored for the window."""
        return self.failure is None and not self.unchanged

    @property
    def source(self) -> str:
        return self.fetched.source if self.fetched is not None else "none"

    @property
    def served_from(self) -> datetime:
        """Start of the part of the window that the vendor can vouch for, up to its end."""
        if self.fetched is None:
            return self.window.end
        return max(self.window.start, self.fetched.served_from or self.window.start)

    @property
    def served_window(self) -> Window:
        return Window(self.served_from, self.window.end)


@dataclass(frozen=True, slots=True)
class Rebase:
    """A vendor multiplied the history up to a bar by one factor, as after a split."""

    factor: float  # new price / old price
    until: datetime  # start of the last bar on the new basis
    ts: datetime  # start of the first bar after it; `until` where there is none yet


@dataclass(frozen=True, slots=True)
class Gap:
    """An expected bar that is not stored."""

    ts: datetime
    cause: GapCause = GapCause.UNEXPLAINED
    error: str | None = None  # message of the failed request


@dataclass(frozen=True, slots=True)
class HistoryReach:
    """How much of the history that was asked for has been served."""

    wanted_from: datetime
    served_from: datetime
    limit: HistoryLimit | None = None  # why the rest was not served, if a vendor said so
    checked: bool = False  # whether this run asked for the rest
    fallback: str | None = None  # the vendor that served in place of one that could not be asked
    missing_share: float = 0.0  # of the time that was asked for

    @property
    def is_short(self) -> bool:
        return self.served_from - self.wanted_from > timedelta(days=1)


@dataclass(frozen=True, slots=True)
class FlagCount:
    """The bars that one check flagged."""

    bars: int
    at: Sequence[datetime] = ()  # the newest of them, as examples


@dataclass(frozen=True, slots=True)
class QualityInputs:
    """The counts from which the quality of a series is computed."""

    expected: int  # bars that the calendar has since the first one
    missing: int  # expected bars that are not stored although they may have been traded
    checked: int  # bars that validation saw
    feature_cells: int  # feature values past their warm-up
    feature_nulls: int  # those of them that are NULL
    sessions_behind: int  # sessions that ended since the newest bar
    no_trades: int = 0  # expected bars in which nobody traded
    flag_counts: Mapping[str, FlagCount] = field(default_factory=dict)  # check → its bars, disjoint
    missing_at: Sequence[datetime] = ()  # the newest missing bars, as examples
    history: HistoryReach | None = None
    substitution: str | None = None  # quote currency that a fallback served, "USDT for USD"
    lifeless_sessions: int = 0  # newest ones in which a stale feed shows no sign of life

    @property
    def flagged_bars(self) -> int:
        """Checked bars with a flag that lowers the score."""
        return sum(count.bars for count in self.flag_counts.values())


@dataclass(frozen=True, slots=True, eq=False)
class SeriesUpdate:
    """What one run writes of one series."""

    timeframe: Timeframe
    fetches: Sequence[FetchResult]  # of this run, the main one first
    bars: Bars  # all rows from the first new or changed one on
    features: Mapping[str, NDArray[Any]]  # aligned with `bars`; empty if nothing changed
    compute_ms: float
    flags: Sequence[Flag]  # found in the windows of the fetches
    gaps: Sequence[Gap]  # still missing in the windows
    quality: Quality
    quality_inputs: QualityInputs
    history_from: datetime  # earliest start served so far
    rebase: Rebase | None = None
    adjusted_until: datetime | None = None  # as in SeriesSnapshot, after the run
    restored_until: datetime | None = None  # bars from before were put back to what was traded
    splits: Sequence[Split] = ()  # that the features were computed with
    last_ts: datetime | None = None  # start of the newest bar of the series after the run
    appends: bool = False  # whether all `bars` start after those stored
    replaces_series: bool = False  # whether all that is stored of the series is given up first
    withdrawn: Timestamps = field(default_factory=no_timestamps)  # stored bars to be removed first
    doubted: Timestamps = field(default_factory=no_timestamps)  # stored bars that were not sent
    compared_at: datetime | None = None  # of this run, if it compared the whole history
    session: StockSession = StockSession.REGULAR  # the hours of the stored bars after the run
    repairs: bool = False  # whether it replaces damaged bars, and gaps closed without evidence
    settling_from: datetime | None = None  # volumes of stored bars from here on may still grow

    @property
    def as_of(self) -> datetime:
        """The latest end of the fetched windows."""
        return max(result.window.end for result in self.fetches)

    @property
    def fetched(self) -> FetchedBars:
        """Response to the main fetch, whose vendor becomes the source of the series.

        Raises ValueError if that fetch failed.
        """
        response = self.fetches[0].fetched
        if response is None:
            raise ValueError("an update without its main fetch can't be written")
        return response
