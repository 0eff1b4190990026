"""Why the symbols of a job have not started: paused, no worker, waiting for a vendor or a retry.

While calls wait for the quota that all workers share, what waits for a thread waits for the quota
of its vendor. Its position is its place in the queue, running symbols first, and its time that
position at the pace of the last quarter of an hour, or of the quota while little is completed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection

from enrichment.domain.statuses import ItemStatus, MarketDayStatus, PauseScope, WorkerState
from enrichment.warehouse.database import JsonRows, fetch_all, fetch_one, from_row, sql
from enrichment.warehouse.queue.pauses import IN_FORCE
from enrichment.warehouse.queue.workers import IS_ALIVE
from enrichment.warehouse.read_models.dto import MarketDays, WaitReason
from enrichment.warehouse.state_lists import OPEN_JOBS, QUEUED_ITEMS, WAITING_ITEMS

ProviderOrders = Mapping[str, Sequence[str]]
"""Asset class → its providers, in the order in which they are asked."""


def wait_reasons(conn: Connection, job_id: UUID, providers: ProviderOrders) -> list[WaitReason]:
    """The reasons why symbols of an open job wait, that of most symbols first.

    A symbol has one reason: a pause before a missing worker, and that before its own delay. None
    are given for symbols that only wait for a free thread.
    """
    return fetch_all(conn, WaitReason, _REASONS, _values(job_id, None, providers))


def market_days(conn: Connection, job_id: UUID) -> MarketDays | None:
    """The days that a job fetches of the whole market; None without any."""
    days = fetch_one(conn, MarketDays, _MARKET_DAYS, {"job_id": job_id})
    return days if days is not None and days.planned else None


def waits_of(
    conn: Connection, job_id: UUID, symbols: Sequence[str], providers: ProviderOrders
) -> dict[str, WaitReason]:
    """Why these symbols of a job wait, as far as there is a reason."""
    if not symbols:
        return {}
    rows = conn.execute(sql(_OF_SYMBOLS), _values(job_id, symbols, providers))
    return {row.symbol: from_row(WaitReason, row, symbols=1) for row in rows}


def _values(
    job_id: UUID, symbols: Sequence[str] | None, providers: ProviderOrders
) -> dict[str, object]:
    orders = [
        {"asset_class": asset_class, "vendor": vendor, "place": place}
        for asset_class, vendors in providers.items()
        for place, vendor in enumerate(vendors)
    ]
    listed = None if symbols is None else list(symbols)
    return {"job_id": job_id, "symbols": listed, **_PROVIDERS.bind(orders)}


_PROVIDERS = JsonRows("providers", "asset_class text, vendor text, place integer")
_PACE_MINUTES = 15
_FEW_COMPLETED = 5

_QUOTAS = f"""
vendor_of AS (
    SELECT DISTINCT ON (asset_class) asset_class, vendor FROM {_PROVIDERS.table}
    WHERE NOT EXISTS (SELECT 1 FROM pauses
        WHERE {IN_FORCE} AND scope = '{PauseScope.PROVIDER}' AND key = vendor)
    ORDER BY asset_class, place
), used_up AS (
    SELECT vendor, max(rate) AS per_minute
    FROM (SELECT DISTINCT vendor FROM vendor_of) v
    JOIN resilience_limits l ON l.name = vendor || '_api'
    WHERE EXISTS (SELECT 1 FROM resilience_waiting w WHERE w.name = l.name
        AND w.slot > 1000000 * extract(epoch FROM clock_timestamp()))
    GROUP BY vendor
), of_vendor AS (
    SELECT i.*, vendor, per_minute, j.started_at AS job_started_at
    FROM used_up JOIN vendor_of USING (vendor) JOIN enrichment_job_items i USING (asset_class)
    JOIN enrichment_jobs j USING (job_id)
    WHERE j.state IN {OPEN_JOBS} AND j.cancel_requested_at IS NULL AND NOT i.market_days
), paces AS (
    SELECT vendor, CASE WHEN count(*) FILTER (WHERE recent) < {_FEW_COMPLETED}
            THEN max(per_minute)
            ELSE count(*) FILTER (WHERE recent) / extract(epoch FROM now() - greatest(
                now() - make_interval(mins => {_PACE_MINUTES}),
                min(job_started_at) FILTER (WHERE recent))) * 60 END AS per_minute
    FROM (SELECT *, completed_at > now() - make_interval(mins => {_PACE_MINUTES}) AS recent
        FROM of_vendor) completed
    GROUP BY vendor
), placed AS (
    SELECT job_id, symbol, vendor, row_number() OVER (PARTITION BY vendor
        ORDER BY status <> '{ItemStatus.IN_PROGRESS}', priority, created_at, symbol) - 1 AS before
    FROM of_vendor WHERE status IN {QUEUED_ITEMS}
), quotas AS (
    SELECT job_id, symbol, 'quota of ' || vendor AS quota, before,
        now() + make_interval(secs => 60.0 * before / per_minute) AS quota_until
    FROM placed JOIN paces USING (vendor)
)"""

_MARKET_DAYS = f"""
SELECT count(*) AS planned,
    count(*) FILTER (
        WHERE status IN ('{MarketDayStatus.FETCHED}', '{MarketDayStatus.UNPUBLISHED}')) AS fetched,
    count(*) FILTER (WHERE status IN ('{MarketDayStatus.REFUSED}', '{MarketDayStatus.FAILED}',
        '{MarketDayStatus.DROPPED}')) AS given_up,
    (SELECT count(*) FROM enrichment_job_items WHERE job_id = :job_id AND market_days) AS symbols
FROM market_days WHERE job_id = :job_id
"""

_WAITING = f"""
WITH days AS ({_MARKET_DAYS}), alive AS (
    SELECT worker_id, state, note FROM workers
    WHERE {IS_ALIVE}
), blocked AS (
    SELECT CASE
        WHEN NOT EXISTS (SELECT 1 FROM alive) THEN
            'no worker is running: start one with ''enrichment worker'''
        WHEN NOT EXISTS (SELECT 1 FROM alive WHERE state <> '{WorkerState.WAITING}') THEN
            (SELECT 'workers wait: ' || coalesce(min(note), 'no reason given') FROM alive)
        END AS reason
), {_QUOTAS}, explained AS (
    SELECT i.symbol, q.quota, q.before, q.quota_until, CASE
        WHEN p.scope IS NOT NULL THEN
            CASE p.scope WHEN '{PauseScope.GLOBAL}' THEN 'everything'
                ELSE replace(p.scope, '_', ' ') || ' ' || p.key END
            || ' is paused by ' || p.paused_by || coalesce(': ' || p.reason, '')
        WHEN b.reason IS NOT NULL THEN b.reason
        WHEN i.market_days AND j.market_days_pending THEN
            (SELECT fetched || ' of ' || planned || ' days of the whole market are fetched'
                FROM days)
        WHEN i.run_after > now() AND i.status = '{ItemStatus.RETRY}' THEN
            'retry after ' || coalesce(i.error_class, 'an error')
        WHEN i.run_after > now() AND i.last_error IS DISTINCT FROM q.quota THEN
            coalesce(regexp_replace(i.last_error, '; retry in [^ ]+ s', ''), 'delayed')
        WHEN o.symbol IS NOT NULL THEN 'another job is enriching the symbol'
        ELSE q.quota END AS reason,
        CASE WHEN p.scope IS NOT NULL THEN p.until
            WHEN b.reason IS NULL AND i.run_after > now() THEN i.run_after END AS until
    FROM enrichment_job_items i JOIN enrichment_jobs j USING (job_id) CROSS JOIN blocked b
    LEFT JOIN LATERAL (
        SELECT scope, key, paused_by, reason, until FROM pauses
        WHERE {IN_FORCE} AND (scope = '{PauseScope.GLOBAL}'
            OR (scope, key) IN (('{PauseScope.ASSET_CLASS}', i.asset_class),
                ('{PauseScope.SYMBOL}', i.symbol)))
        ORDER BY scope = '{PauseScope.GLOBAL}' DESC LIMIT 1) p ON true
    LEFT JOIN enrichment_job_items o ON o.symbol = i.symbol
        AND o.status = '{ItemStatus.IN_PROGRESS}' AND o.job_id <> i.job_id
    LEFT JOIN quotas q ON q.job_id = i.job_id AND q.symbol = i.symbol
    WHERE i.job_id = :job_id AND i.status IN {WAITING_ITEMS}
        AND (CAST(:symbols AS text[]) IS NULL OR i.symbol = ANY(CAST(:symbols AS text[])))
), waiting AS (
    SELECT symbol, reason, CASE WHEN reason = quota THEN before END AS before,
        CASE WHEN reason = quota THEN quota_until ELSE until END AS until
    FROM explained WHERE reason IS NOT NULL
)
"""

_REASONS = f"""
{_WAITING}
SELECT reason, count(*) AS symbols, min(until) AS until, min(before) AS before,
    max(until) FILTER (WHERE before IS NOT NULL) AS last_until
FROM waiting GROUP BY reason ORDER BY symbols DESC, reason
"""

_OF_SYMBOLS = f"{_WAITING} SELECT symbol, reason, until, before FROM waiting"
