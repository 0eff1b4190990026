"""How much open jobs still have to ask of each vendor, and how long that will take.

What is left is estimated by asset class and timeframes: the symbols that are left, and the requests
that a symbol took lately. Jobs share the vendors' quotas in the order in which they are claimed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from uuid import UUID

from sqlalchemy import Connection

from enrichment.domain.forecast import VendorWork, longest
from enrichment.domain.model import AssetClass, Timeframe
from enrichment.domain.statuses import ItemStatus, MarketDayStatus, PauseScope
from enrichment.vendors.canonical import source_timeframe
from enrichment.vendors.registry import VENDORS
from enrichment.warehouse.database import database_now, fetch_all, sql
from enrichment.warehouse.queue.pauses import IN_FORCE
from enrichment.warehouse.read_models.dto import VendorProgress
from enrichment.warehouse.read_models.night import paused_limiters, pauses_in_force
from enrichment.warehouse.state_lists import OPEN_JOBS, QUEUED_ITEMS

MAX_AGE_SECONDS = 1.0
_WINDOW_SECONDS = 900
_Kind = tuple[str, tuple[str, ...], bool]  # of symbols: the first fields of _Items


@dataclass(frozen=True, slots=True)
class _Items:
    """Symbols of one kind in an open job, those that are not paused."""

    job_id: UUID
    asset_class: str
    timeframes: Sequence[str]
    market_days: bool  # whether their days come from those fetched of the whole market
    left: int
    done: int  # within the window

    @property
    def kind(self) -> _Kind:
        return self.asset_class, tuple(self.timeframes), self.market_days


@dataclass(frozen=True, slots=True)
class _Fetches:
    """Requests of the window for symbols of one kind."""

    asset_class: str
    timeframes: Sequence[str]
    market_days: bool
    source: str
    requests: int


@dataclass(frozen=True, slots=True)
class _Days:
    """Days that an open job fetches of the whole market, each by one request."""

    job_id: UUID
    source: str
    left: int
    done: int  # within the window


@dataclass
class VendorEtas:
    """What open jobs have to ask of each vendor, read at most every second."""

    providers: Mapping[str, Sequence[str]]  # asset class → vendors in the order they are asked
    quotas: Mapping[str, int | None]  # vendor → requests a minute; missing: none
    _read: tuple[float, dict[UUID, list[VendorProgress]]] | None = field(default=None, init=False)

    def of(self, conn: Connection, job_id: UUID) -> list[VendorProgress]:
        """Of the vendors that an open job needs; of another job none."""
        now, last = monotonic(), self._read
        if last is None or now - last[0] > MAX_AGE_SECONDS:
            last = self._read = now, read_vendor_progress(conn, self.providers, self.quotas)
        return last[1].get(job_id, [])

    def seconds_left(
        self,
        conn: Connection,
        job_id: UUID,
        total: int,
        final: int,
        seconds: float | None,
        *,
        at_best: bool = False,
    ) -> float | None:
        """Until an open job ends; None if that can't be told.

        By the quotas of the vendors that it needs; without any by its symbols.

        Args:
            conn: The connection to read from.
            job_id: The job.
            total: Its symbols.
            final: Those that have ended.
            seconds: For which it has been at work.
            at_best: At the best pace, not at the present one.
        """
        vendors = self.of(conn, job_id) if final < total else []
        if any(vendor.vendor in self.quotas for vendor in vendors):
            return longest(v.soonest_seconds if at_best else v.eta_seconds for v in vendors)
        return (total - final) * seconds / final if seconds and final else None


def read_vendor_progress(
    conn: Connection,
    providers: Mapping[str, Sequence[str]],
    quotas: Mapping[str, int | None],
) -> dict[UUID, list[VendorProgress]]:
    """Open job → what it has to ask of each vendor that it needs; arguments as of VendorEtas."""
    items = fetch_all(conn, _Items, _ITEMS, {"window": _WINDOW_SECONDS})
    if not items:
        return {}
    fetches = fetch_all(conn, _Fetches, _FETCHES, {"window": _WINDOW_SECONDS})
    seconds = float(conn.execute(sql(_SECONDS), {"window": _WINDOW_SECONDS}).scalar_one())
    per_symbol = _requests_per_symbol(items, fetches, providers)
    recent: Counter[str] = Counter()
    for fetch in fetches:
        recent[VENDORS.name_of(fetch.source)] += fetch.requests
    days = fetch_all(conn, _Days, _DAYS, {"window": _WINDOW_SECONDS})
    for of_job in days:
        recent[VENDORS.name_of(of_job.source)] += of_job.done
    best = {VENDORS.name_of(row.source): row.pace for row in conn.execute(sql(_BEST))}
    blocked = _blocked_seconds(conn)
    ahead: dict[str, float] = defaultdict(float)  # requests of this job and of those before it
    progress: dict[UUID, list[VendorProgress]] = defaultdict(list)
    for job_id, left in _left(items, days, per_symbol).items():
        for vendor, requests in sorted(left.items()):
            ahead[vendor] += requests
            work = VendorWork(
                vendor,
                ahead[vendor],
                recent[vendor],
                max(seconds, 1.0),
                quotas.get(vendor),
                blocked.get(vendor, 0.0),
                best.get(vendor),
            )
            etas = work.seconds_left(), work.seconds_left(at_best=True)
            progress[job_id].append(VendorProgress(vendor, round(requests), work.pace, *etas))
    return dict(progress)


def _left(
    items: Sequence[_Items],
    days: Sequence[_Days],
    per_symbol: Mapping[_Kind, Mapping[str, float]],
) -> dict[UUID, dict[str, float]]:
    """Job, in the order in which they are claimed → vendor → requests that are left."""
    left: dict[UUID, dict[str, float]] = {}
    for group in items:
        of_job = left.setdefault(group.job_id, defaultdict(float))
        for vendor, requests in per_symbol[group.kind].items():
            if group.left:
                of_job[vendor] += group.left * requests
    for whole in days:
        left[whole.job_id][VENDORS.name_of(whole.source)] += whole.left
    return left


def _requests_per_symbol(
    items: Sequence[_Items], fetches: Sequence[_Fetches], providers: Mapping[str, Sequence[str]]
) -> dict[_Kind, dict[str, float]]:
    """Kind of symbols → vendor → requests a symbol: as of late, at first as of one source each."""
    sums: dict[_Kind, Counter[str]] = defaultdict(Counter)
    symbols: Counter[_Kind] = Counter()
    for group in items:
        symbols[group.kind] += group.done
        if group.kind not in sums:
            first = next(iter(providers.get(group.asset_class, ())), None)
            sums[group.kind] = Counter({first: _sources(group)} if first else {})
    for fetch in fetches:
        kind = fetch.asset_class, tuple(fetch.timeframes), fetch.market_days
        if kind in sums:
            sums[kind][VENDORS.name_of(fetch.source)] += fetch.requests
    return {
        kind: {vendor: n / (symbols[kind] + 1) for vendor, n in counts.items()}
        for kind, counts in sums.items()
    }


def _sources(group: _Items) -> int:
    """Requests for a symbol if each timeframe that is asked for takes one."""
    market = AssetClass(group.asset_class)
    sources = {source_timeframe(market, Timeframe(name)) for name in group.timeframes}
    return len(sources - {Timeframe.D1} if group.market_days else sources)


def _blocked_seconds(conn: Connection) -> dict[str, float | None]:
    """Vendor → until it may be asked again; None for a pause without an end."""
    now = database_now(conn)
    blocked: dict[str, float | None] = {
        limiter.name.removesuffix("_api"): (limiter.until - now).total_seconds()
        for limiter in paused_limiters(conn)
    }
    for pause in pauses_in_force(conn):
        if pause.scope == PauseScope.PROVIDER:
            until = None if pause.until is None else (pause.until - now).total_seconds()
            blocked[pause.key] = until
        elif pause.scope == PauseScope.GLOBAL and pause.until is None:
            return dict.fromkeys(VENDORS.names)
    return blocked


_SINCE = """greatest(coalesce(j.resumed_at, j.started_at, now()),
        now() - make_interval(secs => :window))"""

# Symbols that are paused without an end are not counted.
_ITEMS = f"""
SELECT i.job_id, i.asset_class, i.timeframes, i.market_days,
    count(*) FILTER (WHERE i.status IN {QUEUED_ITEMS} AND NOT EXISTS (
        SELECT 1 FROM pauses p WHERE {IN_FORCE} AND until IS NULL AND (p.scope, p.key) IN (
            ('{PauseScope.ASSET_CLASS}', i.asset_class), ('{PauseScope.SYMBOL}', i.symbol))))
        AS left,
    count(*) FILTER (WHERE i.status = '{ItemStatus.COMPLETED}' AND i.completed_at >= {_SINCE})
        AS done
FROM enrichment_jobs j JOIN enrichment_job_items i USING (job_id)
WHERE j.state IN {OPEN_JOBS}
GROUP BY i.job_id, i.asset_class, i.timeframes, i.market_days
ORDER BY min(i.priority), min(i.created_at), i.job_id, i.asset_class, i.timeframes
"""

_DAYS = f"""
SELECT d.job_id, d.source, count(*) FILTER (WHERE d.status = '{MarketDayStatus.PENDING}') AS left,
    count(*) FILTER (WHERE d.status <> '{MarketDayStatus.DROPPED}' AND d.ended_at >= {_SINCE})
        AS done
FROM enrichment_jobs j JOIN market_days d USING (job_id)
WHERE j.state IN {OPEN_JOBS} GROUP BY d.job_id, d.source
"""

_FETCHES = f"""
SELECT i.asset_class, i.timeframes, i.market_days, l.source, sum(l.requests)::bigint AS requests
FROM enrichment_jobs j
JOIN enrichment_fetch_log l ON l.job_id = j.job_id AND l.at >= {_SINCE}
    AND l.at >= now() - make_interval(secs => :window)
JOIN enrichment_job_items i ON (i.job_id, i.symbol) = (l.job_id, l.symbol)
WHERE j.state IN {OPEN_JOBS} AND l.source IS NOT NULL AND l.requests > 0
GROUP BY 1, 2, 3, 4
"""

# Of whole stretches of five minutes, in which a quota of a minute is used evenly.
_BEST = f"""
SELECT source, max(requests) / 5.0::float8 AS pace FROM (
    SELECT source, floor(extract(epoch FROM at) / 300), sum(requests) AS requests FROM (
        SELECT l.source, l.at, l.requests FROM enrichment_jobs j
        JOIN enrichment_fetch_log l ON l.job_id = j.job_id AND l.at >= j.started_at
        WHERE j.state IN {OPEN_JOBS} AND l.source IS NOT NULL AND l.requests > 0
        UNION ALL
        SELECT d.source, d.ended_at, 1 FROM enrichment_jobs j JOIN market_days d USING (job_id)
        WHERE j.state IN {OPEN_JOBS} AND d.ended_at IS NOT NULL
            AND d.status <> '{MarketDayStatus.DROPPED}'
    ) requests GROUP BY 1, 2
) stretches GROUP BY source
"""

_SECONDS = f"""
SELECT coalesce(extract(epoch FROM now() - min({_SINCE})), 0) FROM enrichment_jobs j
WHERE state IN {OPEN_JOBS} AND started_at IS NOT NULL
"""
