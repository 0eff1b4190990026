"""Why the symbols of a job have not started: paused, no worker, waiting for a vendor or a retry."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection

from enrichment.domain.statuses import ItemStatus, MarketDayStatus, PauseScope, WorkerState
from enrichment.warehouse.database import fetch_all, fetch_one
from enrichment.warehouse.queue.pauses import IN_FORCE
from enrichment.warehouse.queue.workers import IS_ALIVE
from enrichment.warehouse.read_models.dto import MarketDays, WaitReason
from enrichment.warehouse.state_lists import WAITING_ITEMS


def wait_reasons(conn: Connection, job_id: UUID) -> list[WaitReason]:
    """The reasons why symbols of an open job wait, that of most symbols first.

    A symbol has one reason: a pause before a missing worker, and that before its own delay. None
    are given for symbols that only wait for a free thread.
    """
    return fetch_all(conn, WaitReason, _REASONS, {"job_id": job_id})


def market_days(conn: Connection, job_id: UUID) -> MarketDays | None:
    """The days that a job fetches of the whole market; None without any."""
    days = fetch_one(conn, MarketDays, _MARKET_DAYS, {"job_id": job_id})
    return days if days is not None and days.planned else None


_MARKET_DAYS = f"""
SELECT count(*) AS planned,
    count(*) FILTER (
        WHERE status IN ('{MarketDayStatus.FETCHED}', '{MarketDayStatus.UNPUBLISHED}')) AS fetched,
    count(*) FILTER (WHERE status IN ('{MarketDayStatus.REFUSED}', '{MarketDayStatus.FAILED}',
        '{MarketDayStatus.DROPPED}')) AS given_up,
    (SELECT count(*) FROM enrichment_job_items WHERE job_id = :job_id AND market_days) AS symbols
FROM market_days WHERE job_id = :job_id
"""

_REASONS = f"""
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
), waiting AS (
    SELECT CASE
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
        WHEN i.run_after > now() THEN
            coalesce(regexp_replace(i.last_error, '; retry in [^ ]+ s', ''), 'delayed')
        WHEN o.symbol IS NOT NULL THEN 'another job is enriching the symbol'
        END AS reason,
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
    WHERE i.job_id = :job_id AND i.status IN {WAITING_ITEMS}
)
SELECT reason, count(*) AS symbols, min(until) AS until FROM waiting
WHERE reason IS NOT NULL GROUP BY reason ORDER BY symbols DESC, reason
"""
