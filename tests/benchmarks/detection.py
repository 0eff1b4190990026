"""The checks of bars: what they find of injected faults, and what they flag in clean bars.

    python -m tests.benchmarks.detection [--series 1000] [--faults 5] [--seed 1]

Each simulated series of 750 daily bars gets faults of five of ten kinds and runs through the whole
pipeline as one download; halved volumes and doubled adjustments, which can't be seen but by what is
stored and what the trades say, as a night of their own. A fault is found if a flag, a quarantined
bar, a gap or a correction concerns one of its bars or the one after it. Flags on other bars are
false, and are counted for the last kind before them. The same is told of a plain robust z-score of
returns and volumes (beyond 3.5, of the 60 bars before), and of the recorded years, in which nothing
is injected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
from rich.console import Console
from rich.table import Table

from enrichment.domain import calendars
from enrichment.domain.bars import PRICES, Bars, Floats, Timestamps, to_datetime, to_datetime64
from enrichment.domain.corporate_actions import Split, implied_splits
from enrichment.domain.model import AssetClass, FetchedBars, Severity, Timeframe, Window
from enrichment.pipeline.validation import validate
from enrichment.pipeline.validation.bars import ValidationRequest
from enrichment.pipeline.validation.series import rolling_median_mad
from tests.benchmarks.report import Figure, parser, tell
from tests.helpers.fakes import TASK, FakePipeline
from tests.helpers.recorded_series import daily_stocks

Random = np.random.Generator
SESSIONS = calendars.bar_starts(
    AssetClass.STOCK,
    Timeframe.D1,
    datetime(2010, 1, 4, tzinfo=UTC),
    datetime(2013, 1, 1, tzinfo=UTC),
)[:750]
FIRST_FAULT, SPACING = 90, 128
CRASH = 600  # row of the day on which the market falls
EARNINGS = 63  # sessions between two reports


@dataclass(frozen=True)
class Market:
    """Daily log returns that all series share."""

    returns: Floats

    @classmethod
    def of(cls, random: Random) -> Market:
        return cls(0.008 * random.standard_t(4, len(SESSIONS)) / np.sqrt(2))

    def crashing(self, by: float) -> Market:
        returns = self.returns.copy()
        returns[CRASH] = np.log1p(-by)
        return Market(returns)


def simulated(random: Random, market: Market) -> Bars:
    """A stock: fat tails, clustered volatility, reports with their volume, prices in cents."""
    n = len(SESSIONS)
    level = _autoregressive(random, 0.97, 0.06)
    sigma = random.uniform(0.008, 0.025) * np.exp(level)
    own = sigma * random.standard_t(5, n) / np.sqrt(5 / 3)
    reports = np.arange(int(random.integers(EARNINGS)), n, EARNINGS)
    own[reports] += random.normal(0, 0.05, len(reports))
    returns = random.uniform(0.5, 1.5) * market.returns + own
    close = random.uniform(20, 200) * np.exp(np.cumsum(returns))
    opening = close * np.exp(-returns * random.uniform(0.2, 1.0, n))
    wicks = np.abs(random.normal(0, 0.5, (2, n))) * sigma
    high = np.maximum(opening, close) * np.exp(wicks[0])
    low = np.minimum(opening, close) * np.exp(-wicks[1])
    activity = _autoregressive(random, 0.8, 0.18) + random.normal(0, 0.15, n)
    activity += 0.5 * np.abs(returns) / sigma - 0.4
    activity[reports] += np.log(random.uniform(2.5, 6.0, len(reports)))
    volume = np.rint(random.uniform(2e5, 2e7) * np.exp(activity))
    lot = random.uniform(60, 250) * np.exp(_autoregressive(random, 0.9, 0.02))
    trades = np.rint(volume / (lot * np.exp(random.normal(0, 0.05, n)))) + 1
    prices = (np.round(column, 2) for column in (opening, high, low, close))
    return Bars.of(SESSIONS, *prices, volume, trades=trades)


def _autoregressive(random: Random, weight: float, noise: float) -> Floats:
    steps, level = random.normal(0, noise, len(SESSIONS)), np.zeros(len(SESSIONS))
    for row in range(1, len(level)):
        level[row] = weight * level[row - 1] + steps[row]
    return level


@dataclass(frozen=True)
class Fault:
    """Where one was injected: rows of the clean series, [first, end)."""

    first: int
    end: int


Injector = Callable[[Random, Bars, int], tuple[Bars, Fault]]


def _changed(bars: Bars, rows: slice | int, factor: float, *names: str) -> Bars:
    columns = {name: getattr(bars, name).copy() for name in names}
    for column in columns.values():
        column[rows] *= factor
    return replace(bars, **columns)


def hundredfold(random: Random, bars: Bars, row: int) -> tuple[Bars, Fault]:
    factor = float(random.choice([100.0, 0.01]))
    return _changed(bars, row, factor, *PRICES), Fault(row, row + 1)


def swapped(random: Random, bars: Bars, row: int) -> tuple[Bars, Fault]:
    high, low = bars.high.copy(), bars.low.copy()
    high[row], low[row] = low[row], high[row]
    return replace(bars, high=high, low=low), Fault(row, row + 1)


def stale(random: Random, bars: Bars, row: int) -> tuple[Bars, Fault]:
    end = row + int(random.integers(6, 60))
    columns = bars.columns()
    empty = random.random() < 0.5
    for name, column in columns.items():
        if name != "ts":
            columns[name] = column.copy()
            columns[name][row:end] = column[row - 1]
    if empty:
        for name in ("open", "high", "low"):
            columns[name][row:end] = bars.close[row - 1]
        columns["volume"][row:end] = columns["trades"][row:end] = 0.0
    return Bars(**columns), Fault(row, end)


def missed_split(random: Random, bars: Bars, row: int) -> tuple[Bars, Fault]:
    ratio = float(random.choice([1.5, 2, 3, 4, 5, 7, 10, 20, 1 / 4, 1 / 8, 1 / 10]))
    after = slice(row, None)
    prices = _changed(bars, after, 1 / ratio, *PRICES)
    return _changed(prices, after, ratio, "volume"), Fault(row, row + 1)


def duplicated(random: Random, bars: Bars, row: int) -> tuple[Bars, Fault]:
    """The row sent twice, or also as the bar of the next session."""
    if random.random() < 0.5:
        return bars.take(np.insert(np.arange(len(bars)), row, row)), Fault(row, row + 1)
    rows = np.arange(len(bars))
    rows[row + 1] = row
    return replace(bars.take(rows), ts=bars.ts), Fault(row, row + 2)


def shifted(random: Random, bars: Bars, row: int) -> tuple[Bars, Fault]:
    """The bar dated as the session before, or a stretch dated a calendar day early."""
    ts = bars.ts.copy()
    if random.random() < 0.5:
        ts[row] = ts[row - 1]
        return replace(bars, ts=ts), Fault(row - 1, row + 1)
    end = row + int(random.integers(5, 20))
    ts[row:end] -= np.timedelta64(1, "D")
    return replace(bars, ts=ts), Fault(row - 1, end)


def spike(random: Random, bars: Bars, row: int) -> tuple[Bars, Fault]:
    """A bad print of 20 to 120 % as the close and the extreme, or as the extreme alone."""
    size = random.uniform(0.2, 1.2)
    up = bool(random.random() < 0.5)
    extreme = bars.high if up else bars.low
    price = extreme[row] * (1 + size) if up else extreme[row] / (1 + size)
    columns = {"high" if up else "low": extreme.copy(), "close": bars.close.copy()}
    for name, column in columns.items():
        if name != "close" or random.random() < 0.5:
            column[row] = np.round(price, 2)
    return replace(bars, **columns), Fault(row, row + 1)


def missing(random: Random, bars: Bars, row: int) -> tuple[Bars, Fault]:
    return bars.take(np.arange(len(bars)) != row), Fault(row, row + 1)


def halved_volume(random: Random, bars: Bars, row: int) -> tuple[Bars, Fault]:
    """Half the volume of the newest bar with all its trades, or of stored bars before it."""
    first = row - 1 if random.random() < 0.5 else row - 1 - int(random.integers(1, 8))
    end = row if first == row - 1 else row - 1
    return _changed(bars, slice(first, end), 0.5, "volume"), Fault(first, end)


def doubled_dividend(random: Random, bars: Bars, row: int) -> tuple[Bars, Fault]:
    """The bars before a recent ex-date are adjusted for the dividend once more."""
    ex_date = row - int(random.integers(1, 8))
    factor = 1 - random.uniform(0.001, 0.03)
    return _changed(bars, slice(ex_date), factor, *PRICES), Fault(ex_date - 1, ex_date)


KINDS: Mapping[str, Injector] = {
    "100-fold price": hundredfold,
    "swapped high and low": swapped,
    "stale feed": stale,
    "missed split": missed_split,
    "duplicated day": duplicated,
    "shifted day": shifted,
    "halved volume": halved_volume,
    "spike": spike,
    "missing day": missing,
    "doubled dividend adjustment": doubled_dividend,
}
AT_NIGHT = ("halved volume", "doubled dividend adjustment")  # seen by what is stored already
Counts = Mapping[str, "Count"]


class Vendor:
    """Sends the bars of a window in any order."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars

    def fetch(self, symbol: str, asset: AssetClass, timeframe: Timeframe, w: Window) -> FetchedBars:
        inside = (self.bars.ts >= to_datetime64(w.start)) & (self.bars.ts < to_datetime64(w.end))
        return FetchedBars(self.bars.take(inside), "memory", adjusted=False)

    def fetch_from_other(self, *_: object, excluding: str) -> FetchedBars | None:
        return None


def findings(fake: FakePipeline) -> set[np.datetime64]:
    """Starts of the bars that the last run flags, sets apart or misses."""
    update = fake.store.last
    assert update is not None
    starts = {f.ts for f in update.flags if f.severity is not Severity.INFO}
    starts |= {gap.ts for gap in update.gaps}
    starts |= {bar.ts for fetch in update.fetches for bar in fetch.validation.quarantined}
    return {to_datetime64(ts) for ts in starts}


def download(bars: Bars, splits: Sequence[Split] = ()) -> FakePipeline:
    """One run that fetches all of them."""
    fake = FakePipeline(bars)
    fake.vendor.fetch = Vendor(bars).fetch  # type: ignore[method-assign]
    fake.store.current = replace(fake.store.current, splits=tuple(splits))
    fake.now = to_datetime(bars.ts.max()) + timedelta(days=1)
    fake.pipeline.enrich(TASK)
    return fake


def night(stored: Bars, sent: Bars) -> set[np.datetime64]:
    """What a run finds that fetches `sent`, of which all but the last bar is `stored`."""
    fake = download(stored.take(slice(-1)))
    before, known = fake.store.bars, findings(fake)
    fake.vendor.fetch = Vendor(sent).fetch  # type: ignore[method-assign]
    fake.now = to_datetime(sent.ts[-1]) + timedelta(days=1)
    fake.pipeline.enrich(TASK)
    mine, theirs = before.intersect(fake.store.bars)
    corrected = mine.ts[~mine.equal_rows(theirs)]
    return (findings(fake) - known) | set(corrected)


def z_score(bars: Bars) -> set[np.datetime64]:
    """Starts of the bars whose return or volume is beyond a robust z-score of 3.5."""
    with np.errstate(divide="ignore", invalid="ignore"):
        close, volume = np.log(bars.close), np.log(bars.volume)
    rows, flagged = np.arange(len(bars)), np.zeros(len(bars), dtype=bool)
    for column in (np.append(np.nan, np.diff(close)), np.where(np.isfinite(volume), volume, -50)):
        median, deviation = rolling_median_mad(column, rows)
        flagged |= np.abs(column - median) > 3.5 * np.maximum(deviation, 1e-9)
    return set(bars.ts[flagged])


@dataclass
class Count:
    """Of one kind."""

    faults: int = 0
    found: int = 0
    bars: int = 0
    false: int = 0

    def judge(self, flagged: set[np.datetime64], ts: Timestamps, of: Fault) -> None:
        self.faults += 1
        self.found += any(start in flagged for start in ts[of.first : of.end + 1])

    @property
    def recall(self) -> float:
        return self.found / max(1, self.faults)

    @property
    def false_rate(self) -> float:
        return 1e5 * self.false / max(1, self.bars)

    @property
    def shown_recall(self) -> str:
        return f"{self.recall:.4f}" if self.faults else "-"

    @property
    def shown_rate(self) -> str:
        return f"{self.false_rate:,.1f}" if self.bars else "-"


def _count_false(count: Count, flagged: set[np.datetime64], ts: Timestamps) -> None:
    """Count flags among bars that no fault concerns."""
    count.bars += len(ts)
    count.false += len(flagged & set(ts))


def _clean_after(ts: Timestamps, faults: Sequence[Fault]) -> list[Timestamps]:
    """For each fault, ascending, the bars after it up to the next one; the first's also before."""
    bounds = [0, *(fault.first for fault in faults[1:]), len(ts)]
    clean = np.ones(len(ts), dtype=bool)
    for fault in faults:
        clean[fault.first : fault.end + 1] = False
    return [ts[a:b][clean[a:b]] for a, b in pairwise(bounds)]


def measure(series: int, faults: int, seed: int) -> tuple[dict[str, Count], dict[str, Count]]:
    """Kind → counts of the checks, and of the plain z-score."""
    random = np.random.default_rng(seed)
    market = Market.of(random)
    names = list(KINDS)
    checks: dict[str, Count] = {kind: Count() for kind in KINDS}
    plain: dict[str, Count] = {kind: Count() for kind in KINDS}
    for number in range(series):
        clean = simulated(random, market)
        kinds = [names[(number + n) % len(names)] for n in random.permutation(faults)]
        rows = [FIRST_FAULT + SPACING * n + int(random.integers(60)) for n in range(faults)]
        placed = list(zip(kinds, rows, strict=True))
        _judge_nights(random, clean, placed, checks, plain)
        _judge_download(random, clean, placed, checks, plain)
    return checks, plain


Placed = Sequence[tuple[str, int]]  # kind and row of each fault


def _judge_nights(
    random: Random, clean: Bars, placed: Placed, checks: Counts, plain: Counts
) -> None:
    for kind, row in placed:
        if kind in AT_NIGHT:
            stored = clean.take(slice(row))
            faulty, fault = KINDS[kind](random, stored, row)
            checks[kind].judge(night(stored, faulty), stored.ts, fault)
            plain[kind].judge(z_score(faulty), stored.ts, fault)


def _judge_download(
    random: Random, clean: Bars, placed: Placed, checks: Counts, plain: Counts
) -> None:
    at_once = [(kind, row) for kind, row in placed if kind not in AT_NIGHT]
    faulty, faults = clean, list[Fault]()
    for kind, row in reversed(at_once):  # so that rows before stay where they are
        faulty, fault = KINDS[kind](random, faulty, row)
        faults.insert(0, fault)
    flagged, z_scores = findings(download(faulty)), z_score(faulty)
    after = _clean_after(clean.ts, faults)
    for (kind, _), fault, bars in zip(at_once, faults, after, strict=True):
        checks[kind].judge(flagged, clean.ts, fault)
        plain[kind].judge(z_scores, clean.ts, fault)
        _count_false(checks[kind], flagged, bars)
        _count_false(plain[kind], z_scores, bars)


def flags_on_a_crash(series: int, seed: int, by: float = 0.12) -> int:
    """Warnings and errors of one day on which the market falls, over all series."""
    random = np.random.default_rng(seed)
    market = Market.of(random).crashing(by)
    history = [simulated(random, market) for _ in range(series)]
    day = SESSIONS[CRASH]
    returns = [np.log(bars.close[CRASH] / bars.close[CRASH - 1]) for bars in history]
    return sum(flagged_on(bars, day, float(np.median(returns))) for bars in history)


def flagged_on(bars: Bars, day: np.datetime64, market_return: float) -> bool:
    now = to_datetime(bars.ts[-1]) + timedelta(days=1)
    window = Window(to_datetime(day), now)
    request = ValidationRequest(
        AssetClass.STOCK, Timeframe.D1, window, now, market_returns={day: market_return}
    )
    result = validate(bars.take(bars.ts >= day), request, context=bars.take(bars.ts < day))
    return any(f.ts == to_datetime(day) and f.severity is not Severity.INFO for f in result.flags)


def on_recorded_years() -> tuple[Count, Count]:
    """Flags of the recorded series, whose splits are known: of the checks, and of the z-score."""
    checks, plain = Count(), Count()
    for recorded in daily_stocks().values():
        bars = recorded.bars
        splits = implied_splits(bars.ts, bars.close, recorded.adjusted_close)
        known = [(ts.date(), ratio) for ts, ratio in splits.items()]
        _count_false(checks, findings(download(bars, known)), bars.ts)
        _count_false(plain, z_score(bars), bars.ts)
    return checks, plain


def total(counts: Mapping[str, Count]) -> Count:
    every = list(counts.values())
    return Count(*(sum(getattr(c, n) for c in every) for n in ("faults", "found", "bars", "false")))


def comparison(checks: Counts, plain: Counts) -> Table:
    columns = ("recall", "false flags per 100,000", "z-score: recall", "z-score: false flags")
    table = Table("fault", "injected", *columns, title="Detection", title_justify="left")
    for kind, mine in checks.items():
        other = plain[kind]
        rates = (mine.shown_recall, mine.shown_rate, other.shown_recall, other.shown_rate)
        table.add_row(kind, str(mine.faults), *rates)
    return table


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--series", type=int, default=1_000)
    options.add_argument("--faults", type=int, default=5, help="in each series, at most 5")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    checks, plain = measure(given.series, given.faults, given.seed)
    recorded, recorded_plain = on_recorded_years()
    every, every_plain = total(checks), total(plain)
    shown = {**checks, "all of them": every, "recorded years": recorded}
    Console().print(
        comparison(shown, {**plain, "all of them": every_plain, "recorded years": recorded_plain})
    )
    false = Count(bars=every.bars + recorded.bars, false=every.false + recorded.false)
    crash = flags_on_a_crash(given.series, given.seed)
    figures = [
        Figure("recall of injected faults", every.recall, "", "≥", 0.99),
        Figure("… of a plain robust z-score", every_plain.recall, ""),
        Figure("false flags", false.false_rate, "per 100,000 clean bars", "≤", 1.0),
        Figure("… of a plain robust z-score", every_plain.false_rate, "per 100,000 clean bars"),
        Figure("flags on a day of -12 %", crash, f"of {given.series} series", "≤", 5),
    ]
    tell("Detection of faults", figures, given)


if __name__ == "__main__":
    main()
