"""Initial schema: symbols, jobs, bars, logs, quality, resilience, alerts and the audit log."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SYMBOLS = """
CREATE TABLE tracked_symbols (
    symbol      text PRIMARY KEY,
    asset_class text NOT NULL CHECK (asset_class IN ('stock', 'etf', 'crypto')),
    timeframes  text[] NOT NULL CHECK (cardinality(timeframes) > 0),
    active      boolean NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
"""

JOBS = """
CREATE TABLE enrichment_jobs (
    job_id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    kind                text NOT NULL CHECK
        (kind IN ('scheduled', 'catchup', 'manual', 'backfill')),
    slot_date           date,
    idempotency_key     text UNIQUE,
    state               text NOT NULL DEFAULT 'queued' CHECK
        (state IN ('queued', 'running', 'completed', 'partial', 'failed', 'cancelled')),
    params              jsonb NOT NULL DEFAULT '{}',
    requested_by        text NOT NULL,
    reason              text,
    cancel_requested_at timestamptz,
    created_at          timestamptz NOT NULL DEFAULT now(),
    started_at          timestamptz,
    completed_at        timestamptz,
    total               integer NOT NULL DEFAULT 0,
    successful          integer,
    failed              integer,
    cancelled           integer,
    retried             integer,
    inserted            bigint,
    updated             bigint,
    CHECK ((state IN ('queued', 'running')) = (completed_at IS NULL)),
    CHECK ((kind IN ('scheduled', 'catchup')) = (slot_date IS NOT NULL))
);
-- The database decides who enqueues a slot: scheduled and catch-up jobs share one key.
CREATE UNIQUE INDEX enrichment_jobs_slot ON enrichment_jobs (slot_date)
    WHERE kind IN ('scheduled', 'catchup');
CREATE INDEX enrichment_jobs_open ON enrichment_jobs (created_at)
    WHERE state IN ('queued', 'running');
CREATE INDEX enrichment_jobs_newest ON enrichment_jobs (created_at DESC, job_id DESC);

CREATE TABLE enrichment_job_items (
    job_id       uuid NOT NULL REFERENCES enrichment_jobs ON DELETE CASCADE,
    symbol       text NOT NULL,
    asset_class  text NOT NULL,
    timeframes   text[] NOT NULL,
    status       text NOT NULL DEFAULT 'pending' CHECK
        (status IN ('pending', 'in_progress', 'retry', 'completed', 'failed', 'cancelled')),
    priority     smallint NOT NULL DEFAULT 10,
    step         text,
    retry_count  integer NOT NULL DEFAULT 0 CHECK (retry_count >= 0),
    run_after    timestamptz NOT NULL DEFAULT now(),
    worker_id    text,
    fence        bigint NOT NULL DEFAULT 0,
    lease_until  timestamptz,
    error_class  text,
    last_error   text,
    inserted     bigint NOT NULL DEFAULT 0,
    updated      bigint NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz,
    completed_at timestamptz,
    PRIMARY KEY (job_id, symbol),
    CHECK ((status = 'in_progress') = (lease_until IS NOT NULL)),
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX enrichment_job_items_claimable ON enrichment_job_items (priority, created_at, symbol)
    WHERE status IN ('pending', 'retry');
CREATE INDEX enrichment_job_items_open ON enrichment_job_items (job_id)
    WHERE status IN ('pending', 'retry', 'in_progress');
CREATE INDEX enrichment_job_items_leased ON enrichment_job_items (lease_until)
    WHERE status = 'in_progress';
-- Two jobs may name a symbol; only one worker may work on it at a time.
CREATE UNIQUE INDEX enrichment_job_items_running ON enrichment_job_items (symbol)
    WHERE status = 'in_progress';
CREATE INDEX enrichment_job_items_latest ON enrichment_job_items (symbol, created_at DESC);
"""

OPERATIONS = """
CREATE TABLE pauses (
    scope     text NOT NULL CHECK (scope IN ('global', 'asset_class', 'symbol', 'provider')),
    key       text NOT NULL DEFAULT '',
    paused_by text NOT NULL,
    reason    text,
    at        timestamptz NOT NULL DEFAULT now(),
    until     timestamptz,
    PRIMARY KEY (scope, key),
    CHECK ((scope = 'global') = (key = ''))
);

CREATE TABLE operator_actions (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT now(),
    actor  text NOT NULL,
    action text NOT NULL,
    target text,
    reason text,
    params jsonb NOT NULL DEFAULT '{}'
);
CREATE FUNCTION operator_actions_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'operator_actions is append-only'; END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON operator_actions
    FOR EACH ROW EXECUTE FUNCTION operator_actions_append_only();

CREATE TABLE workers (
    worker_id    text PRIMARY KEY,
    host         text NOT NULL,
    pid          integer NOT NULL,
    version      text NOT NULL,
    threads      integer NOT NULL,
    busy         integer NOT NULL DEFAULT 0,
    state        text NOT NULL DEFAULT 'running' CHECK
        (state IN ('running', 'draining', 'stopped')),
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    ticked_at    timestamptz
);
CREATE INDEX workers_heartbeat ON workers (heartbeat_at DESC);
"""

RESILIENCE = """
CREATE TABLE resilience_state (
    worker_id  text NOT NULL,
    kind       text NOT NULL,
    name       text NOT NULL,
    state      text,
    status     jsonb NOT NULL,
    seq        bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (worker_id, kind, name)
);

CREATE TABLE resilience_transitions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL,
    worker_id  text NOT NULL,
    kind       text NOT NULL,
    name       text NOT NULL,
    from_state text NOT NULL,
    to_state   text NOT NULL,
    reason     text
);
CREATE INDEX resilience_transitions_newest ON resilience_transitions (name, at DESC);
"""

LOGS = """
CREATE TABLE enrichment_fetch_log (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    job_id          uuid,
    symbol          text NOT NULL,
    timeframe       text,
    source          text,
    success         boolean NOT NULL,
    requests        integer,
    bars            integer,
    duration_ms     double precision,
    window_start    timestamptz,
    window_end      timestamptz,
    adjusted        boolean,
    quota_remaining integer,
    error_class     text,
    error           text
) PARTITION BY RANGE (at);
CREATE INDEX enrichment_fetch_log_at ON enrichment_fetch_log USING brin (at);
CREATE INDEX enrichment_fetch_log_symbol ON enrichment_fetch_log (symbol, at DESC);
CREATE INDEX enrichment_fetch_log_failures ON enrichment_fetch_log (at DESC) WHERE NOT success;

CREATE TABLE enrichment_compute_log (
    id            bigint GENERATED ALWAYS AS IDENTITY,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    job_id        uuid,
    symbol        text NOT NULL,
    timeframe     text,
    success       boolean NOT NULL,
    bars          integer,
    features      integer,
    duration_ms   double precision,
    quality_score double precision,
    error_class   text,
    error         text
) PARTITION BY RANGE (at);
CREATE INDEX enrichment_compute_log_at ON enrichment_compute_log USING brin (at);
CREATE INDEX enrichment_compute_log_symbol ON enrichment_compute_log (symbol, at DESC);
CREATE INDEX enrichment_compute_log_failures ON enrichment_compute_log (at DESC) WHERE NOT success;

CREATE TABLE enrichment_fetch_hourly (
    hour            timestamptz NOT NULL,
    source          text NOT NULL,
    total           integer NOT NULL,
    successful      integer NOT NULL,
    duration_ms     double precision NOT NULL,
    latency_buckets integer[] NOT NULL,
    PRIMARY KEY (hour, source)
);
COMMENT ON COLUMN enrichment_fetch_hourly.latency_buckets IS
    'fetches that took up to 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000 ms, and longer';

CREATE TABLE enrichment_compute_hourly (
    hour        timestamptz PRIMARY KEY,
    total       integer NOT NULL,
    successful  integer NOT NULL,
    duration_ms double precision NOT NULL
);
"""

BARS = """
CREATE TABLE bars (
    symbol           text NOT NULL,
    timeframe        text NOT NULL,
    ts               timestamptz NOT NULL,
    open             double precision NOT NULL,
    high             double precision NOT NULL,
    low              double precision NOT NULL,
    close            double precision NOT NULL,
    volume           double precision NOT NULL,
    vwap             double precision,
    trades           double precision,
    taker_buy_volume double precision,
    PRIMARY KEY (symbol, timeframe, ts)
);
COMMENT ON TABLE bars IS
    'one row per bar with its features; the feature columns follow the registry';

CREATE TABLE bar_flags (
    symbol     text NOT NULL,
    timeframe  text NOT NULL,
    ts         timestamptz NOT NULL,
    check_name text NOT NULL,
    severity   text NOT NULL CHECK (severity IN ('error', 'warning', 'info')),
    detail     text NOT NULL,
    found_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, timeframe, ts, check_name)
);

CREATE TABLE bar_quarantine (
    symbol         text NOT NULL,
    timeframe      text NOT NULL,
    ts             timestamptz NOT NULL,
    check_name     text NOT NULL,
    detail         text NOT NULL,
    source         text NOT NULL,
    bar            jsonb NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX bar_quarantine_once
    ON bar_quarantine (symbol, timeframe, ts, check_name, md5(bar::text));

CREATE TABLE bar_gaps (
    symbol      text NOT NULL,
    timeframe   text NOT NULL,
    ts          timestamptz NOT NULL,
    cause       text NOT NULL DEFAULT 'unexplained',
    attempts    integer NOT NULL DEFAULT 1,
    found_at    timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    PRIMARY KEY (symbol, timeframe, ts)
);

CREATE TABLE data_corrections (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol       text NOT NULL,
    timeframe    text NOT NULL,
    ts           timestamptz NOT NULL,
    field        text NOT NULL,
    old_value    double precision,
    new_value    double precision,
    reason       text NOT NULL,
    source       text NOT NULL,
    job_id       uuid,
    corrected_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX data_corrections_series ON data_corrections (symbol, timeframe, ts);
CREATE INDEX data_corrections_newest ON data_corrections (corrected_at DESC);

CREATE TABLE data_quality_metrics (
    symbol             text NOT NULL,
    timeframe          text NOT NULL,
    date               date NOT NULL,
    total_records      integer NOT NULL,
    validated_records  integer NOT NULL,
    validation_rate    double precision NOT NULL,
    gaps_detected      integer NOT NULL,
    anomalies_detected integer NOT NULL,
    avg_quality_score  double precision NOT NULL,
    data_completeness  double precision NOT NULL,
    validation         double precision NOT NULL,
    features           double precision NOT NULL,
    freshness          double precision NOT NULL,
    status             text NOT NULL,
    reasons            text[] NOT NULL,
    updated_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, timeframe, date)
);
CREATE INDEX data_quality_metrics_day ON data_quality_metrics (date);

CREATE TABLE enrichment_status (
    symbol          text NOT NULL,
    timeframe       text NOT NULL,
    status          text NOT NULL CHECK
        (status IN ('healthy', 'warning', 'stale', 'error', 'not_enriched')),
    bars            bigint NOT NULL DEFAULT 0,
    first_ts        timestamptz,
    last_ts         timestamptz,
    history_from    timestamptz,
    source          text,
    adjusted        boolean,
    quality_score   double precision,
    reasons         text[] NOT NULL DEFAULT '{}',
    last_success_at timestamptz,
    last_error      text,
    last_error_at   timestamptz,
    PRIMARY KEY (symbol, timeframe)
);
"""

ALERTS = """
CREATE TABLE alert_states (
    rule       text PRIMARY KEY,
    severity   text NOT NULL CHECK (severity IN ('critical', 'warning', 'info')),
    state      text NOT NULL CHECK (state IN ('ok', 'pending', 'firing')),
    since      timestamptz NOT NULL DEFAULT now(),
    value      double precision,
    detail     text,
    updated_at timestamptz NOT NULL DEFAULT now()
);
"""

TABLES = (
    "alert_states, enrichment_status, data_quality_metrics, data_corrections, bar_gaps, "
    "bar_quarantine, bar_flags, bars, enrichment_compute_hourly, enrichment_fetch_hourly, "
    "enrichment_compute_log, enrichment_fetch_log, resilience_transitions, resilience_state, "
    "workers, operator_actions, pauses, enrichment_job_items, enrichment_jobs, tracked_symbols"
)


def upgrade() -> None:
    for part in (SYMBOLS, JOBS, OPERATIONS, RESILIENCE, LOGS, BARS, ALERTS):
        op.execute(part)


def downgrade() -> None:
    op.execute(f"DROP TABLE {TABLES} CASCADE")
    op.execute("DROP FUNCTION operator_actions_append_only()")
