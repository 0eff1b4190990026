"""The schedules: the last run of each, what it covers, and when it runs next.

Times are timezone-aware UTC, durations seconds. Symbols that are not active are left out.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from enrichment.domain.model import AssetClass, JobKind
from enrichment.domain.schedules import (
    DEFAULT_NAME,
    Market,
    Schedule,
    market_of,
    uncovered,
)
from enrichment.domain.statuses import ItemStatus, JobState
from enrichment.warehouse.database import database_now, fetch_all, sql
from enrichment.warehouse.state_lists import FINISHED_JOBS, NIGHTLY_JOBS, OPEN_JOBS

_FIRST_RUN_GRACE = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class NightRun:
    """The newest scheduled or catch-up run of a schedule that has ended."""

    job_id: UUID
    kind: str
    schedule: str | None  # None for a run of all symbols that somebody triggered
    slot_date: dt.date | None
    state: str
    started_at: dt.datetime | None
    completed_at: dt.datetime | None
    duration_seconds: float | None  # at work; without the time before it was resumed
    successful: int
    failed: int
    cancelled: int
    retried: int
    enriched_since: int  # of the failed symbols: enriched by a later run of any kind
    still_failing: int  # of the failed symbols: neither enriched since nor taken out

    @property
    def judged_symbols(self) -> int:
        """Those that ended, without failed ones that have been taken out since."""
        return self.successful + self.enriched_since + self.still_failing

    @property
    def failure_rate(self) -> float | None:
        """The share of the judged symbols that still fail, in [0, 1]; None for an empty run."""
        return self.still_failing / self.judged_symbols if self.judged_symbols else None

    @property
    def name(self) -> str:
        """What is judged: a night, a schedule's run, or one that somebody triggered."""
        if self.schedule is None:
            return "run of all symbols"
        if self.schedule == DEFAULT_NAME:
            return f"night ({self.slot_date})"
        return f"run of schedule {self.schedule} ({self.slot_date})"


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """A schedule, its last run and its next one."""

    name: str
    asset_classes: Sequence[str]
    exchanges: Sequence[str]  # MICs to which stocks and ETFs are limited; empty: all
    time: str  # HH:MM on the clock of the zone
    zone: str
    days: Sequence[str]  # Mon … Sun
    symbols: int  # active ones that it covers
    is_running: bool  # whether a run of it is open
    overdue: bool  # whether a run that was planned is missing
    last_slot_time: dt.datetime | None  # its newest slot that counts
    next_run_time: dt.datetime | None  # None if runs are disabled
    run: NightRun | None  # the newest that has ended


@dataclass(frozen=True, slots=True)
class UncoveredSymbols:
    """Active symbols that no schedule covers."""

    asset_class: str
    exchange: str  # MIC; empty for crypto
    symbols: int


@dataclass(frozen=True, slots=True)
class TrackedMarket:
    """The active symbols of a market."""

    symbols: int
    since: dt.datetime  # when the first of them was added


def read_schedules(
    conn: Connection,
    schedules: Sequence[Schedule],
    tracked: Mapping[Market, TrackedMarket],
    *,
    enabled: bool,
) -> list[ScheduleStatus]:
    """The schedules in their order. enabled: whether they run at all."""
    now = database_now(conn)
    names = {"schedules": [schedule.name for schedule in schedules]}
    runs = {run.schedule: run for run in fetch_all(conn, NightRun, _LAST_RUNS, names)}
    running = set(conn.execute(sql(_RUNNING)).scalars())
    known = known_since(conn)
    return [
        _status(
            schedule,
            now,
            enabled=enabled,
            run=runs.get(schedule.name),
            is_running=schedule.name in running,
            known=known.get(schedule.name, now),
            tracked=[tracked[market] for market in schedule.markets & tracked.keys()],
        )
        for schedule in schedules
    ]


def uncovered_symbols(
    schedules: Sequence[Schedule], tracked: Mapping[Market, TrackedMarket]
) -> list[UncoveredSymbols]:
    """Those that no schedule covers, most first."""
    symbols = Counter({market: those.symbols for market, those in tracked.items()})
    return [
        UncoveredSymbols(kind, mic, n)
        for (kind, mic), n in uncovered(schedules, symbols).most_common()
    ]


def judged_run(conn: Connection, statuses: Iterable[ScheduleStatus]) -> NightRun | None:
    """The run that the installation is judged by: the worst of the schedules' last ones.

    Where none of them has run yet, it is the newest run of a former schedule or, where there has
    never been one, of all symbols that somebody triggered.
    """
    runs = [status.run for status in statuses if status.run is not None]
    return max(runs or fetch_all(conn, NightRun, _OTHER_RUN), key=_badness, default=None)


def slot_time(
    schedules: Iterable[Schedule], name: str, day: dt.date, stored: dt.datetime | None
) -> dt.datetime | None:
    """When a slot was planned: as stored or, of an older version's job, by today's schedule.

    None if that schedule is not there any more.
    """
    slots = (schedule.slot(day).at for schedule in schedules if schedule.name == name)
    return stored or next(slots, None)


def seconds_late(planned: dt.datetime | None, opened: dt.datetime) -> float | None:
    """From the slot until its job was opened; None if the slot is not known."""
    return None if planned is None else (opened - planned).total_seconds()


def known_since(conn: Connection) -> Mapping[str, dt.datetime]:
    """Schedule → when a scheduler first had it."""
    return {row.name: row.since for row in conn.execute(sql(_KNOWN))}


def _badness(run: NightRun) -> tuple[float, bool, float]:
    ended = run.completed_at.timestamp() if run.completed_at else 0.0
    return run.failure_rate or 0.0, run.state == JobState.CANCELLED, ended


def _status(
    schedule: Schedule,
    now: dt.datetime,
    *,
    enabled: bool,
    run: NightRun | None,
    is_running: bool,
    known: dt.datetime,
    tracked: Sequence[TrackedMarket],
) -> ScheduleStatus:
    last, before = _two_slots(schedule, now)
    first = max(known, min(market.since for market in tracked)) if tracked else now
    counts = last >= first
    return ScheduleStatus(
        name=schedule.name,
        asset_classes=list(schedule.asset_classes),
        exchanges=list(schedule.exchanges),
        time=f"{schedule.time:%H:%M}",
        zone=schedule.zone.key,
        days=schedule.day_names,
        symbols=sum(market.symbols for market in tracked),
        is_running=is_running,
        overdue=enabled
        and not is_running
        and (
            counts and now - last > _FIRST_RUN_GRACE
            if run is None or run.completed_at is None
            else run.completed_at < last and now - run.completed_at > last - before
        ),
        last_slot_time=last if counts or run is not None else None,
        next_run_time=schedule.next_slot(now).at if enabled else None,
        run=run,
    )


def _two_slots(schedule: Schedule, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """The times of the newest slot and of the one before it."""
    slots = schedule.slots_before(now)
    return next(slots).at, next(slots).at


def tracked_markets(
    conn: Connection, schedules: Sequence[Schedule]
) -> Mapping[Market, TrackedMarket]:
    """The active symbols by market; those of all exchanges as one where schedules know none."""
    by_exchange = {"by_exchange": any(schedule.exchanges for schedule in schedules)}
    markets: dict[Market, TrackedMarket] = {}
    for row in conn.execute(sql(_TRACKED), by_exchange):
        market = market_of(AssetClass(row.asset_class), f"S.{row.suffix}" if row.suffix else "S")
        other = markets.get(market, TrackedMarket(0, row.since))
        markets[market] = TrackedMarket(other.symbols + row.symbols, min(other.since, row.since))
    return markets


# Whether any later run has enriched the symbol of a failed item i.
ENRICHED_SINCE = f"""EXISTS (
        SELECT 1 FROM enrichment_job_items later
        WHERE later.symbol = i.symbol AND later.status = '{ItemStatus.COMPLETED}'
            AND later.completed_at > i.completed_at)"""

_RUNS = f"""
, failed AS (
    SELECT job_id, count(*) FILTER (WHERE enriched_since) AS enriched_since,
        count(*) FILTER (WHERE active AND NOT enriched_since) AS still_failing
    FROM (SELECT i.job_id, t.active, {ENRICHED_SINCE} AS enriched_since
        FROM run JOIN enrichment_job_items i USING (job_id)
        LEFT JOIN tracked_symbols t ON t.symbol = i.symbol
        WHERE i.status = '{ItemStatus.FAILED}') items
    GROUP BY job_id
)
SELECT job_id, kind, schedule, slot_date, state, started_at, completed_at,
    job_seconds(j) AS duration_seconds, successful, failed, cancelled, retried,
    coalesce(f.enriched_since, 0) AS enriched_since, coalesce(f.still_failing, 0) AS still_failing
FROM run JOIN enrichment_jobs j USING (job_id) LEFT JOIN failed f USING (job_id)
"""

_LAST_RUNS = f"""
WITH run AS (
    SELECT newest.job_id FROM unnest(CAST(:schedules AS text[])) AS name CROSS JOIN LATERAL (
        SELECT job_id FROM enrichment_jobs
        WHERE schedule = name AND kind IN {NIGHTLY_JOBS} AND completed_at IS NOT NULL
        ORDER BY slot_date DESC LIMIT 1) newest
)
{_RUNS}
"""

_OTHER_RUN = f"""
WITH run AS (
    SELECT job_id FROM enrichment_jobs
    WHERE completed_at IS NOT NULL AND (kind IN {NIGHTLY_JOBS} OR kind = '{JobKind.MANUAL}'
        AND state IN {FINISHED_JOBS} AND params ->> 'symbols' IS NULL
        AND params ->> 'asset_class' IS NULL)
    ORDER BY kind IN {NIGHTLY_JOBS} DESC, slot_date DESC NULLS LAST, completed_at DESC LIMIT 1
)
{_RUNS}
"""

_RUNNING = f"""
SELECT DISTINCT schedule FROM enrichment_jobs WHERE state IN {OPEN_JOBS} AND kind IN {NIGHTLY_JOBS}
"""

_KNOWN = "SELECT name, since FROM schedules"

_TRACKED = """
SELECT asset_class, CASE WHEN :by_exchange AND symbol LIKE '%.%' THEN split_part(symbol, '.', -1)
    END AS suffix, count(*) AS symbols, min(created_at) AS since
FROM tracked_symbols WHERE active GROUP BY 1, 2
"""
