"""What the night is judged by: the schedules' last runs, and the state of all series and providers.

Times are timezone-aware UTC, durations seconds, rates percent, scores 0–1. Symbols that are not
active are left out.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from enrichment.domain.schedules import Schedule
from enrichment.domain.statuses import (
    AlertSeverity,
    AlertStatus,
    ItemStatus,
    SeriesStatus,
    WorkerState,
)
from enrichment.warehouse.database import fetch_all, sql
from enrichment.warehouse.queue.pauses import IN_FORCE
from enrichment.warehouse.queue.workers import IS_ALIVE, scheduler_running
from enrichment.warehouse.read_models.dto import Pause, RunForecast
from enrichment.warehouse.read_models.quality_all import newest_quality
from enrichment.warehouse.read_models.schedules import (
    NightRun,
    ScheduleStatus,
    UncoveredSymbols,
    judged_run,
    read_schedules,
    tracked_markets,
    uncovered_symbols,
)
from enrichment.warehouse.read_models.symbols import SERIES_OF_T, STATUS
from enrichment.warehouse.resilience_state import STALE_SECONDS
from enrichment.warehouse.state_lists import FINISHED_JOBS

CAUSES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class FailingCause:
    """Active symbols with a series in error, by the error class of their newest run."""

    error_class: str
    symbols: int
    example_symbol: str
    example: str


@dataclass(frozen=True, slots=True)
class BreakerState:
    """A circuit breaker that is not simply closed, in the workers that report it so.

    Its mode is `auto`, `forced_open` or `disabled`; the last three fields say who set it by hand.
    """

    name: str
    state: str
    mode: str
    workers: int
    reporting: int  # workers that publish this breaker
    set_by: str | None
    reason: str | None
    since: dt.datetime | None

    @property
    def is_failing(self) -> bool:
        """Whether it rejects requests; while it is half open, all but the trial ones."""
        return self.mode == "forced_open" or (self.mode == "auto" and self.state != "closed")


@dataclass(frozen=True, slots=True)
class PausedLimiter:
    """A vendor's rate limiter that grants nothing for more than a minute."""

    name: str
    until: dt.datetime
    """In the worker where it is paused longest."""


@dataclass(frozen=True, slots=True)
class WaitingWorker:
    worker_id: str
    note: str | None


@dataclass(frozen=True, slots=True)
class FiringAlert:
    rule: str
    severity: str
    since: dt.datetime | None


@dataclass(frozen=True, slots=True)
class NightState:
    """One reading of everything that the judgement rests on, in one snapshot."""

    timestamp: dt.datetime
    scheduler_running: bool
    schedules: Sequence[ScheduleStatus]
    run: NightRun | None  # the worst of the schedules' last ones, see `judged_run`
    last_enrichment_time: dt.datetime | None
    asset_classes: Sequence[str]  # of the active symbols
    providers: Mapping[str, Sequence[str]]  # asset class → providers in the order they are asked
    statuses: Mapping[str, int]  # active series by status
    current: int  # active series that reach the newest session as of their last run
    error_symbols: int  # active symbols with a series in error
    causes: Sequence[FailingCause]  # of these, the most frequent first
    scored: int  # series that the mean score and the validation rate cover
    mean_score: float | None
    validation_rate: float | None
    pauses: Sequence[Pause]
    breakers: Sequence[BreakerState]
    waiting_workers: Sequence[WaitingWorker]
    alerts: Sequence[FiringAlert]
    limiters: Sequence[PausedLimiter] = ()
    uncovered: Sequence[UncoveredSymbols] = ()
    forecasts: Sequence[RunForecast] = ()  # of the open runs that have a deadline

    @property
    def series(self) -> int:
        return sum(self.statuses.values())

    @property
    def runs(self) -> Sequence[NightRun]:
        """The last one of each schedule, or of those that have none the one that is judged."""
        runs = [status.run for status in self.schedules if status.run is not None]
        return runs or ([] if self.run is None else [self.run])

    @property
    def overdue(self) -> Sequence[ScheduleStatus]:
        return [status for status in self.schedules if status.overdue]


def read_night(
    conn: Connection,
    providers: Mapping[str, Sequence[str]],
    schedules: Sequence[Schedule],
    *,
    enabled: bool,
    forecasts: Callable[[Connection], Sequence[RunForecast]] = lambda conn: (),
) -> NightState:
    """The installation now; the connection's transaction is the snapshot.

    Args:
        conn: The connection.
        providers: Asset class → providers in the order they are asked.
        schedules: When which symbols are enriched by themselves.
        enabled: Whether the schedules run.
        forecasts: Reads those of the open runs.
    """
    tracked = tracked_markets(conn, schedules)
    planned = read_schedules(conn, schedules, tracked, enabled=enabled)
    now = conn.execute(sql(_NOW)).one()
    statuses = conn.execute(sql(_STATUSES)).all()
    quality = conn.execute(sql(_QUALITY)).one()
    return NightState(
        timestamp=now.now,
        scheduler_running=scheduler_running(conn),
        schedules=planned,
        run=judged_run(conn, planned),
        last_enrichment_time=now.last_enrichment_time,
        asset_classes=now.asset_classes,
        providers=providers,
        statuses={row.status: row.series for row in statuses},
        current=sum(row.current for row in statuses),
        error_symbols=conn.execute(sql(_ERROR_SYMBOLS)).scalar_one(),
        causes=fetch_all(conn, FailingCause, _CAUSES, {"limit": CAUSES_SHOWN}),
        scored=quality.scored,
        mean_score=quality.mean_score,
        validation_rate=quality.validation_rate,
        pauses=pauses_in_force(conn),
        breakers=fetch_all(conn, BreakerState, _BREAKERS, {"stale": STALE_SECONDS}),
        waiting_workers=fetch_all(conn, WaitingWorker, _WAITING),
        alerts=fetch_all(conn, FiringAlert, _FIRING),
        limiters=paused_limiters(conn),
        uncovered=uncovered_symbols(schedules, tracked) if enabled else (),
        forecasts=forecasts(conn),
    )


def pauses_in_force(conn: Connection) -> list[Pause]:
    """By scope and key."""
    return fetch_all(conn, Pause, _PAUSES)


def paused_limiters(conn: Connection) -> list[PausedLimiter]:
    """By name."""
    return fetch_all(conn, PausedLimiter, _PAUSED_LIMITERS, {"stale": STALE_SECONDS})


_NOW = f"""
SELECT now() AS now,
    (SELECT max(completed_at) FROM enrichment_jobs
        WHERE state IN {FINISHED_JOBS}) AS last_enrichment_time,
    ARRAY(SELECT DISTINCT asset_class FROM tracked_symbols
        WHERE active ORDER BY asset_class) AS asset_classes
"""

_STATUSES = f"""
SELECT {STATUS} AS status, count(*) AS series,
    count(*) FILTER (WHERE e.last_success_at > now() - interval '26 hours'
        AND (e.evidence ->> 'sessions_behind')::integer <= 0) AS current
FROM tracked_symbols t {SERIES_OF_T} WHERE t.active GROUP BY 1
"""

_ERROR_SYMBOLS = f"""
SELECT count(DISTINCT t.symbol) FROM tracked_symbols t {SERIES_OF_T}
WHERE t.active AND e.status = '{SeriesStatus.ERROR}'
"""

_CAUSES = f"""
WITH failing AS (
    SELECT DISTINCT t.symbol FROM tracked_symbols t {SERIES_OF_T}
    WHERE t.active AND e.status = '{SeriesStatus.ERROR}'
), newest AS (
    SELECT f.symbol, i.error_class, i.last_error FROM failing f CROSS JOIN LATERAL (
        SELECT error_class, last_error FROM enrichment_job_items
        WHERE symbol = f.symbol AND status = '{ItemStatus.FAILED}'
        ORDER BY created_at DESC LIMIT 1) i
)
SELECT coalesce(error_class, 'unknown') AS error_class, count(*) AS symbols,
    min(symbol) AS example_symbol,
    coalesce((array_agg(last_error ORDER BY symbol))[1], '') AS example
FROM newest GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT :limit
"""

_QUALITY = f"""
SELECT count(score) AS scored, round(avg(score)::numeric, 4)::float8 AS mean_score,
    round(avg(validation_rate)::numeric, 2)::float8 AS validation_rate
FROM ({newest_quality("m.validation_rate, m.avg_quality_score AS score", days=2)}) newest
"""

_PAUSES = f"""
SELECT scope, key, paused_by, reason, at, until FROM pauses
WHERE {IN_FORCE} ORDER BY scope, key
"""

_BREAKERS = """
WITH published AS (
    SELECT name, state, coalesce(status ->> 'mode', 'auto') AS mode,
        count(*) OVER (PARTITION BY name) AS reporting
    FROM resilience_state WHERE kind = 'circuit_breaker'
        AND updated_at > now() - make_interval(secs => :stale)
)
SELECT p.name, p.state, p.mode, count(*) AS workers, max(p.reporting) AS reporting,
    o.actor AS set_by, o.reason, o.at AS since
FROM published p LEFT JOIN LATERAL (
    SELECT actor, reason, at FROM resilience_overrides
    WHERE name = p.name AND p.mode <> 'auto' ORDER BY id DESC LIMIT 1) o ON true
WHERE p.state <> 'closed' OR p.mode <> 'auto'
GROUP BY p.name, p.state, p.mode, o.actor, o.reason, o.at ORDER BY p.name, p.mode, p.state
"""

_PAUSED_LIMITERS = """
SELECT name, max(CAST(status ->> 'paused_until' AS timestamptz)) AS until FROM resilience_state
WHERE kind = 'rate_limiter' AND updated_at > now() - make_interval(secs => :stale)
    AND CAST(status ->> 'paused_until' AS timestamptz) > now() + interval '1 minute'
GROUP BY name ORDER BY name
"""

_WAITING = f"""
SELECT worker_id, note FROM workers
WHERE state = '{WorkerState.WAITING}' AND {IS_ALIVE}
ORDER BY worker_id
"""

_FIRING = f"""
SELECT rule, severity, since FROM alert_states WHERE state = '{AlertStatus.FIRING}'
ORDER BY severity = '{AlertSeverity.CRITICAL}' DESC, rule
"""
