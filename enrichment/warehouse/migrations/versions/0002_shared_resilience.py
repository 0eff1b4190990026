"""Rate limits shared by all workers, and operators' commands to circuit breakers."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LIMITS = """
CREATE TABLE resilience_limits (
    name  text PRIMARY KEY,
    rate  integer NOT NULL,
    tat   numeric NOT NULL,
    slots numeric[] NOT NULL DEFAULT '{}'
);
COMMENT ON COLUMN resilience_limits.tat IS
    'theoretical arrival time of the generic cell rate algorithm, in 1/rate microseconds';
COMMENT ON COLUMN resilience_limits.slots IS
    'strict limits: when the permits of the last interval were or are due, in microseconds';

-- The same arithmetic as in each process, on the database's clock; one call is one atomic step.
CREATE FUNCTION reserve_permits(limit_name text, n integer, max_rate integer, interval_us numeric,
    burst integer, strict boolean, timeout_us numeric, OUT granted boolean, OUT wait_us numeric)
LANGUAGE plpgsql AS $$
DECLARE
    held resilience_limits;
    moment numeric;
    due numeric;
    finish numeric;
    recent numeric[] := '{}';
    excess integer;
BEGIN
    INSERT INTO resilience_limits (name, rate, tat) VALUES (limit_name, max_rate, 0)
        ON CONFLICT DO NOTHING;
    SELECT * INTO held FROM resilience_limits WHERE name = limit_name FOR UPDATE;
    moment := floor(extract(epoch FROM clock_timestamp()) * 1000000);
    due := moment;
    IF strict THEN
        recent := ARRAY(
            SELECT s FROM unnest(held.slots) AS s WHERE s > moment - interval_us ORDER BY s);
        IF cardinality(recent) > 0 THEN
            due := greatest(due, recent[cardinality(recent)]);
        END IF;
        excess := cardinality(recent) + n - max_rate;
        IF excess > 0 THEN
            due := greatest(due, recent[excess] + interval_us);
        END IF;
    END IF;
    finish := greatest(held.tat * max_rate / held.rate, due * max_rate) + n * interval_us;
    due := greatest(due, ceil((finish - burst * interval_us) / max_rate));
    wait_us := due - moment;
    granted := timeout_us IS NULL OR wait_us <= timeout_us;
    IF granted THEN
        UPDATE resilience_limits SET rate = max_rate, tat = finish,
            slots = CASE WHEN strict THEN recent || array_fill(due, ARRAY[n]) ELSE '{}' END
        WHERE name = limit_name;
    END IF;
END $$;
"""

OVERRIDES = """
CREATE TABLE resilience_overrides (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT now(),
    name   text NOT NULL,
    action text NOT NULL CHECK (action IN ('force_open', 'disable', 'reset')),
    actor  text NOT NULL,
    reason text
);
COMMENT ON TABLE resilience_overrides IS
    'operators'' commands to breakers; the newest of a name that forces a state outlives restarts';
"""


def upgrade() -> None:
    op.execute(LIMITS)
    op.execute(OVERRIDES)


def downgrade() -> None:
    op.execute("DROP TABLE resilience_overrides")
    op.execute(
        "DROP FUNCTION reserve_permits(text, integer, integer, numeric, integer, boolean, numeric)"
    )
    op.execute("DROP TABLE resilience_limits")
