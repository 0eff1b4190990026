"""The SQL of the queue. Statements that change an item in progress name its owner."""

from __future__ import annotations

from enrichment.domain.model import MAX_LOG_LINES, AssetClass
from enrichment.domain.statuses import ItemStatus, JobState, PauseScope, SeriesStatus
from enrichment.warehouse.database import JsonRows
from enrichment.warehouse.queue.market_days import WORTH_PLANNING
from enrichment.warehouse.queue.pauses import IN_FORCE
from enrichment.warehouse.state_lists import OPEN_JOBS, QUEUED_ITEMS, WAITING_ITEMS

OWNED = (
    "job_id = :job_id AND symbol = :symbol AND worker_id = :worker AND fence = :fence"
    f" AND status = '{ItemStatus.IN_PROGRESS}'"
)
OWNERS = JsonRows("owners", "job_id uuid, symbol text, worker text, fence bigint")
OWNED_BY = (
    "(i.job_id, i.symbol, i.worker_id, i.fence) = ({0}.job_id, {0}.symbol, {0}.worker, {0}.fence)"
)
THREAD_USE = """thread = CAST(:thread AS smallint), begun_at = CAST(:begun_at AS timestamptz),
    finished_at = CASE WHEN CAST(:thread AS smallint) IS NOT NULL
        THEN coalesce(CAST(:finished_at AS timestamptz), clock_timestamp()) END"""

LOG_LINES = f"""log_lines = (log_lines || CAST(:log_lines AS text[]))[greatest(1,
        cardinality(log_lines) + cardinality(CAST(:log_lines AS text[])) - {MAX_LOG_LINES - 1}):]"""

LOCK_OWNED = f"""
SELECT i.job_id, i.symbol
FROM {OWNERS.table} JOIN enrichment_job_items i ON {OWNED_BY.format("owners")}
WHERE i.status = '{ItemStatus.IN_PROGRESS}' ORDER BY i.job_id, i.symbol FOR UPDATE OF i
"""

# A night's items arrive at once, before the planner has statistics of them; without the settings it
# would sort them all at every claim, although the index has them in this order. The row of a job
# that is being cancelled is locked, and its transaction waits for the items locked here: skip it.
# Items wait for the plan of their job, and for the days that it fetches of the whole market.
CLAIM = f"""
SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off; SET LOCAL synchronous_commit = off;
WITH due AS (
    SELECT i.job_id, i.symbol
    FROM enrichment_job_items i JOIN enrichment_jobs j USING (job_id)
    WHERE i.status IN {WAITING_ITEMS} AND i.run_after <= now()
        AND i.priority <= :max_priority
        AND j.state IN {OPEN_JOBS} AND j.cancel_requested_at IS NULL
        AND (NOT :plans_market_days OR CASE
            WHEN j.market_days_planned_at IS NOT NULL
                THEN NOT (i.market_days AND j.market_days_pending)
            ELSE j.total < {WORTH_PLANNING} OR i.asset_class = '{AssetClass.CRYPTO}'
                OR i.backfill IS NOT NULL END)
        AND NOT EXISTS (
            SELECT 1 FROM pauses
            WHERE {IN_FORCE} AND (scope = '{PauseScope.GLOBAL}' OR (scope, key) IN (
                    ('{PauseScope.ASSET_CLASS}', i.asset_class),
                    ('{PauseScope.SYMBOL}', i.symbol))))
        AND NOT EXISTS (
            SELECT 1 FROM enrichment_job_items o
            WHERE o.symbol = i.symbol AND o.status = '{ItemStatus.IN_PROGRESS}')
    ORDER BY i.priority, i.created_at, i.symbol
    LIMIT :limit
    FOR UPDATE OF i SKIP LOCKED
), one_per_symbol AS (
    SELECT DISTINCT ON (symbol) job_id, symbol FROM due ORDER BY symbol, job_id
), claimed AS (
    UPDATE enrichment_job_items i
    SET status = '{ItemStatus.IN_PROGRESS}', step = 'claimed', worker_id = :worker,
        fence = i.fence + 1, lease_until = now() + make_interval(secs => :lease),
        started_at = coalesce(i.started_at, now()),
        thread = NULL, begun_at = NULL, finished_at = NULL
    FROM one_per_symbol o
    WHERE i.job_id = o.job_id AND i.symbol = o.symbol
    RETURNING i.job_id, i.symbol, i.asset_class, i.timeframes, i.fence, i.retry_count,
        i.market_days, i.backfill, i.priority
), started AS (
    UPDATE enrichment_jobs
    SET state = '{JobState.RUNNING}', started_at = coalesce(started_at, now())
    WHERE job_id IN (
        SELECT job_id FROM enrichment_jobs
        WHERE state = '{JobState.QUEUED}' AND job_id IN (SELECT job_id FROM claimed)
        FOR UPDATE SKIP LOCKED)
)
SELECT * FROM claimed
"""

# An item that is being stored is locked by that transaction until it commits.
STEPS = JsonRows(
    "steps",
    "job_id uuid, symbol text, worker text, fence bigint, step text, thread smallint,"
    " begun_at timestamptz",
)

RENEW = f"""
WITH owned AS (
    SELECT i.job_id, i.symbol, steps.step, steps.thread, steps.begun_at
    FROM {STEPS.table} JOIN enrichment_job_items i ON {OWNED_BY.format("steps")}
    WHERE i.status = '{ItemStatus.IN_PROGRESS}' FOR UPDATE OF i SKIP LOCKED
)
UPDATE enrichment_job_items i
SET step = owned.step, lease_until = now() + make_interval(secs => :lease),
    thread = owned.thread, begun_at = owned.begun_at
FROM owned WHERE i.job_id = owned.job_id AND i.symbol = owned.symbol
"""

RELEASE = f"""
UPDATE enrichment_job_items
SET status = CASE WHEN retry_count > 0 THEN '{ItemStatus.RETRY}' ELSE '{ItemStatus.PENDING}' END,
    lease_until = NULL, worker_id = NULL, step = NULL,
    thread = NULL, begun_at = NULL, finished_at = NULL,
    last_error = coalesce(:why, last_error),
    run_after = now() + make_interval(secs => :seconds)
WHERE {OWNED}
"""

RETRY = f"""
UPDATE enrichment_job_items
SET status = '{ItemStatus.RETRY}', retry_count = retry_count + 1, lease_until = NULL, step = :step,
    error_class = :error_class, last_error = :error,
    run_after = now() + make_interval(secs => :seconds), {LOG_LINES}, {THREAD_USE}
WHERE {OWNED}
"""

FAIL = f"""
UPDATE enrichment_job_items
SET status = '{ItemStatus.FAILED}', lease_until = NULL, step = :step, error_class = :error_class,
    last_error = :error, completed_at = clock_timestamp(), {LOG_LINES}, {THREAD_USE}
WHERE {OWNED}
"""

TOTALS = JsonRows(
    "totals",
    "job_id uuid, symbol text, worker text, fence bigint, inserted bigint, updated bigint,"
    " thread smallint, begun_at timestamptz, finished_at timestamptz",
)

COMPLETE = f"""
UPDATE enrichment_job_items i
SET status = '{ItemStatus.COMPLETED}', lease_until = NULL, step = NULL, error_class = NULL,
    last_error = NULL, log_lines = '{{}}',
    inserted = i.inserted + totals.inserted, updated = i.updated + totals.updated,
    completed_at = clock_timestamp(), thread = totals.thread, begun_at = totals.begun_at,
    finished_at = CASE WHEN totals.thread IS NOT NULL
        THEN coalesce(totals.finished_at, clock_timestamp()) END
FROM {TOTALS.table} WHERE {OWNED_BY.format("totals")}
    AND i.status = '{ItemStatus.IN_PROGRESS}'
RETURNING i.job_id, i.symbol
"""

RECLAIM = f"""
UPDATE enrichment_job_items
SET status = CASE WHEN retry_count < :max_retries THEN '{ItemStatus.RETRY}'
        ELSE '{ItemStatus.FAILED}' END,
    completed_at = CASE WHEN retry_count < :max_retries THEN NULL ELSE now() END,
    retry_count = least(retry_count + 1, :max_retries), lease_until = NULL, run_after = now(),
    finished_at = CASE WHEN thread IS NOT NULL THEN lease_until END,
    error_class = 'WorkerLost', last_error = 'worker ' || worker_id || ' stopped answering'
WHERE (job_id, symbol) IN (
    SELECT job_id, symbol FROM enrichment_job_items
    WHERE status = '{ItemStatus.IN_PROGRESS}' AND lease_until < now() FOR UPDATE SKIP LOCKED)
"""

# A process that freezes during a COPY keeps its items locked, and the server has no timeout for a
# COPY whose client sends nothing. The xmax of the locked row is the transaction of its session.
TERMINATE_FROZEN = f"""
SELECT pg_terminate_backend(session.pid)
FROM pg_stat_activity session
WHERE session.usename = current_user AND session.wait_event = 'ClientRead'
    AND session.state_change < now() - make_interval(secs => :lease)
    AND session.backend_xid IN (
        SELECT xmax FROM enrichment_job_items
        WHERE status = '{ItemStatus.IN_PROGRESS}'
            AND lease_until < now() - make_interval(secs => :lease))
"""

# Cancelling a job cancels its waiting items; one in progress may return to the queue after that.
CANCEL_RETURNED = f"""
UPDATE enrichment_job_items i SET status = '{ItemStatus.CANCELLED}', completed_at = now()
FROM enrichment_jobs j
WHERE j.job_id = i.job_id AND j.state IN {OPEN_JOBS}
    AND j.cancel_requested_at IS NOT NULL AND i.status IN {WAITING_ITEMS}
"""

CLOSE = f"""
SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_sort = off;
WITH finished AS (
    SELECT j.job_id FROM enrichment_jobs j
    WHERE j.state IN {OPEN_JOBS} AND NOT EXISTS (
        SELECT 1 FROM enrichment_job_items i
        WHERE i.job_id = j.job_id AND i.status IN {QUEUED_ITEMS} LIMIT 1)
    FOR UPDATE OF j SKIP LOCKED
), totals AS (
    SELECT finished.job_id,
        count(*) FILTER (WHERE i.status = '{ItemStatus.COMPLETED}') AS successful,
        count(*) FILTER (WHERE i.status = '{ItemStatus.FAILED}') AS failed,
        count(*) FILTER (WHERE i.status = '{ItemStatus.CANCELLED}') AS cancelled,
        count(*) FILTER (WHERE i.retry_count > 0) AS retried,
        coalesce(sum(i.inserted), 0) AS inserted, coalesce(sum(i.updated), 0) AS updated
    FROM finished LEFT JOIN enrichment_job_items i USING (job_id) GROUP BY finished.job_id
)
UPDATE enrichment_jobs j
SET state = CASE
        WHEN j.cancel_requested_at IS NOT NULL AND t.cancelled > 0
            THEN '{JobState.CANCELLED}'
        WHEN t.failed = 0 THEN '{JobState.COMPLETED}'
        WHEN t.successful = 0 THEN '{JobState.FAILED}'
        ELSE '{JobState.PARTIAL}' END,
    successful = t.successful, failed = t.failed, cancelled = t.cancelled, retried = t.retried,
    inserted = t.inserted, updated = t.updated,
    started_at = coalesce(j.started_at, clock_timestamp()), completed_at = clock_timestamp()
FROM totals t WHERE t.job_id = j.job_id
RETURNING j.job_id
"""

INSERT_JOB = """
INSERT INTO enrichment_jobs
    (kind, requested_by, params, reason, idempotency_key, schedule, slot_date, slot_at)
VALUES (:kind, :by, CAST(:params AS jsonb), :reason, :key, :schedule, :slot_date, :slot_at)
ON CONFLICT DO NOTHING RETURNING job_id
"""

SNAPSHOT = """
INSERT INTO enrichment_job_items (job_id, symbol, asset_class, timeframes, priority, backfill)
SELECT :job_id, symbol, asset_class, timeframes, :priority, CAST(:backfill AS jsonb)
FROM tracked_symbols
WHERE active AND (CAST(:symbols AS text[]) IS NULL OR symbol = ANY(CAST(:symbols AS text[])))
    AND (CAST(:asset_class AS text) IS NULL OR asset_class = :asset_class)
"""

REPAIRS = JsonRows("repairs", "symbol text, timeframes text[], backfill jsonb")

ADD_REPAIRS = f"""
INSERT INTO enrichment_job_items (job_id, symbol, asset_class, timeframes, priority, backfill)
SELECT :job_id, t.symbol, t.asset_class, repairs.timeframes, :priority, repairs.backfill
FROM {REPAIRS.table} JOIN tracked_symbols t USING (symbol) WHERE t.active
"""

CANCELLED = """
SELECT job_id FROM enrichment_jobs
WHERE job_id = ANY(:jobs) AND cancel_requested_at IS NOT NULL
"""

CANCEL = f"""
UPDATE enrichment_job_items
SET status = '{ItemStatus.CANCELLED}', lease_until = NULL, step = NULL,
    completed_at = clock_timestamp(), {THREAD_USE}
WHERE {OWNED}
"""

SERIES_FAILED = f"""
INSERT INTO enrichment_status (symbol, timeframe, status, last_error, last_error_at)
VALUES (:symbol, :timeframe, '{SeriesStatus.ERROR}', :error, now())
ON CONFLICT (symbol, timeframe) DO UPDATE
SET status = EXCLUDED.status, last_error = EXCLUDED.last_error,
    last_error_at = EXCLUDED.last_error_at
"""

RECORD_BACKFILL = f"""
UPDATE enrichment_job_items
SET backfill = backfill
        || jsonb_build_object(CAST(:timeframe AS text), CAST(:remaining_until AS text))
        || CASE WHEN CAST(:unserved AS text) IS NULL THEN '{{}}'
            ELSE jsonb_build_object('unserved',
                jsonb_build_object(CAST(:timeframe AS text), CAST(:unserved AS text))
                || coalesce(backfill -> 'unserved', '{{}}')) END,
    inserted = inserted + :inserted, updated = updated + :updated
WHERE {OWNED}
"""
