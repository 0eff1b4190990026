"""Lifetime totals, and alerts with their history and outbox."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TOTALS = """
CREATE TABLE enrichment_job_endings (
    at               timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind             text NOT NULL,
    state            text NOT NULL,
    duration_seconds double precision NOT NULL
);
COMMENT ON TABLE enrichment_job_endings IS
    'every end of a job; a job that is resumed ends again, and its rows outlive it';
INSERT INTO enrichment_job_endings
SELECT completed_at, kind, state, coalesce(extract(epoch FROM completed_at - started_at), 0)
FROM enrichment_jobs WHERE completed_at IS NOT NULL;

CREATE FUNCTION note_job_ending() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO enrichment_job_endings (kind, state, duration_seconds)
    VALUES (NEW.kind, NEW.state,
        coalesce(extract(epoch FROM NEW.completed_at - NEW.started_at), 0));
    RETURN NULL;
END $$;
CREATE TRIGGER note_ending AFTER UPDATE OF state ON enrichment_jobs
    FOR EACH ROW WHEN (OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL)
    EXECUTE FUNCTION note_job_ending();

CREATE TABLE enrichment_fetch_settled (
    source          text PRIMARY KEY,
    before          timestamptz NOT NULL,
    total           bigint NOT NULL,
    successful      bigint NOT NULL,
    duration_ms     double precision NOT NULL,
    latency_buckets bigint[] NOT NULL
);
COMMENT ON TABLE enrichment_fetch_settled IS
    'the sum of all hourly rollups before an hour, so that totals neither shrink nor grow slow';

CREATE TABLE enrichment_compute_settled (
    single      boolean PRIMARY KEY DEFAULT true CHECK (single),
    before      timestamptz NOT NULL,
    total       bigint NOT NULL,
    successful  bigint NOT NULL,
    duration_ms double precision NOT NULL
);
"""

ALERTS = """
ALTER TABLE alert_states
    ADD COLUMN condition   text NOT NULL DEFAULT '',
    ADD COLUMN episode     uuid,
    ADD COLUMN clear_since timestamptz,
    ADD COLUMN notified    boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN alert_states.clear_since IS
    'since when the condition of a firing alert has not held';
COMMENT ON COLUMN alert_states.notified IS 'whether the firing has been handed to the channels';

CREATE TABLE alert_evaluation (
    single       boolean PRIMARY KEY DEFAULT true CHECK (single),
    evaluated_at timestamptz NOT NULL,
    evaluator    text NOT NULL
);
INSERT INTO alert_evaluation (evaluated_at, evaluator) VALUES ('-infinity', 'nobody');

CREATE TABLE alert_events (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id  uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    rule      text NOT NULL,
    episode   uuid NOT NULL,
    state     text NOT NULL CHECK (state IN ('firing', 'resolved')),
    severity  text NOT NULL,
    value     double precision,
    condition text NOT NULL,
    detail    text NOT NULL,
    silenced  boolean NOT NULL,
    UNIQUE (episode, state)
);

CREATE TABLE alert_deliveries (
    event           bigint NOT NULL REFERENCES alert_events ON DELETE CASCADE,
    channel         text NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    delivered_at    timestamptz,
    last_error      text,
    PRIMARY KEY (event, channel)
);
CREATE INDEX alert_deliveries_due ON alert_deliveries (channel, next_attempt_at)
    WHERE delivered_at IS NULL;

CREATE TABLE alert_silences (
    rule        text PRIMARY KEY,
    silenced_by text NOT NULL,
    reason      text,
    at          timestamptz NOT NULL DEFAULT now(),
    until       timestamptz NOT NULL
);
"""


def upgrade() -> None:
    op.execute(TOTALS)
    op.execute(ALERTS)


def downgrade() -> None:
    op.execute("DROP TRIGGER note_ending ON enrichment_jobs")
    op.execute("DROP FUNCTION note_job_ending()")
    op.execute(
        "DROP TABLE alert_silences, alert_deliveries, alert_events, alert_evaluation, "
        "enrichment_compute_settled, enrichment_fetch_settled, enrichment_job_endings"
    )
    op.execute(
        "ALTER TABLE alert_states DROP COLUMN condition, DROP COLUMN episode, "
        "DROP COLUMN clear_since, "
        "DROP COLUMN notified"
    )
