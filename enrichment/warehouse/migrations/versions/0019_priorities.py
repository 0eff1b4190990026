"""Rate limits with two priorities."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

WAITING = """
CREATE TABLE resilience_waiting (
    ticket   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name     text NOT NULL REFERENCES resilience_limits ON DELETE CASCADE,
    permits  integer NOT NULL,
    slot     numeric NOT NULL,
    max_slot numeric,
    settled  boolean NOT NULL DEFAULT false,
    taken    boolean NOT NULL DEFAULT false
);
CREATE INDEX ON resilience_waiting (name);
COMMENT ON TABLE resilience_waiting IS
    'reservations of normal priority that were not granted at once';
COMMENT ON COLUMN resilience_waiting.slot IS
    'when they come due, in microseconds; until then, calls of high priority may delay it';
COMMENT ON COLUMN resilience_waiting.max_slot IS 'the latest slot that the caller waits for';
COMMENT ON COLUMN resilience_waiting.settled IS 'the slot has come, and is one of its limit';
COMMENT ON COLUMN resilience_waiting.taken IS 'the caller has been told that the slot has come';
COMMENT ON COLUMN resilience_limits.slots IS
    'strict limits: when the permits of the last interval were or are due, in microseconds, without
    those of waiting reservations';
"""

# The same arithmetic as in each process (resilience/schedule.py), on the database's clock.
RESERVE = """
CREATE FUNCTION reserve_permits(limit_name text, n integer, max_rate integer, interval_us numeric,
    burst integer, normal_burst integer, strict boolean, high boolean, timeout_us numeric,
    OUT granted boolean, OUT wait_us numeric, OUT new_ticket bigint)
LANGUAGE plpgsql AS $$
DECLARE
    held resilience_limits;
    one record;
    moment numeric;
    due numeric;
    finish numeric;
    tat numeric;
    recent numeric[];
    excess integer;
BEGIN
    INSERT INTO resilience_limits (name, rate, tat) VALUES (limit_name, max_rate, 0)
        ON CONFLICT DO NOTHING;
    SELECT * INTO held FROM resilience_limits WHERE name = limit_name FOR UPDATE;
    moment := floor(extract(epoch FROM clock_timestamp()) * 1000000);
    tat := held.tat * max_rate / held.rate;
    recent := ARRAY(
        SELECT s FROM unnest(held.slots) AS s WHERE s > moment - interval_us ORDER BY s);
    FOR one IN
        WITH come AS (
            UPDATE resilience_waiting w SET settled = true
            WHERE w.name = limit_name AND NOT w.settled AND w.slot <= moment
            RETURNING w.*)
        SELECT come.slot, come.permits FROM come ORDER BY come.ticket
    LOOP
        tat := greatest(tat, one.slot * max_rate) + one.permits * interval_us;
        recent := recent || array_fill(one.slot, ARRAY[one.permits]);
    END LOOP;
    recent := ARRAY(SELECT s FROM unnest(recent) AS s ORDER BY s);
    DELETE FROM resilience_waiting w
    WHERE w.name = limit_name AND w.settled AND (w.taken OR w.slot < moment - interval_us);
    held.tat := tat;
    held.slots := recent;

    FOR one IN
        SELECT * FROM (
            SELECT w.ticket, w.permits, w.slot, w.max_slot, false AS high, w.ticket AS place
            FROM resilience_waiting w WHERE w.name = limit_name AND NOT w.settled
            UNION ALL SELECT NULL, n, NULL, moment + timeout_us, reserve_permits.high,
                CASE WHEN reserve_permits.high THEN 0 ELSE 9223372036854775807 END
        ) placed ORDER BY place
    LOOP
        due := greatest(moment, one.slot);
        IF strict THEN
            due := greatest(due, recent[cardinality(recent)]);
            excess := cardinality(recent) + one.permits - max_rate;
            IF excess > 0 THEN
                due := greatest(due, recent[excess] + interval_us);
            END IF;
        END IF;
        finish := greatest(tat, due * max_rate) + one.permits * interval_us;
        due := greatest(due, ceil((finish
            - CASE WHEN one.high THEN burst ELSE greatest(normal_burst, one.permits) END
            * interval_us) / max_rate));
        IF one.ticket IS NULL THEN
            wait_us := due - moment;
            granted := coalesce(due <= one.max_slot, true);
            EXIT WHEN NOT granted;
        ELSIF due > one.max_slot THEN
            DELETE FROM resilience_waiting WHERE ticket = one.ticket;
            CONTINUE;
        ELSIF due <> one.slot THEN
            UPDATE resilience_waiting SET slot = due WHERE ticket = one.ticket;
        END IF;
        tat := finish;
        recent := recent || array_fill(due, ARRAY[one.permits]);
        IF one.ticket IS NULL AND (one.high OR wait_us = 0) THEN
            held.tat := tat;
            held.slots := recent;
        ELSIF one.ticket IS NULL THEN
            INSERT INTO resilience_waiting (name, permits, slot, max_slot)
            VALUES (limit_name, n, due, one.max_slot) RETURNING ticket INTO new_ticket;
        END IF;
    END LOOP;
    UPDATE resilience_limits l SET rate = max_rate, tat = held.tat,
        slots = CASE WHEN strict THEN held.slots ELSE '{}' END
    WHERE l.name = limit_name;
END $$;

CREATE FUNCTION confirm_permits(limit_name text, confirmed bigint,
    OUT granted boolean, OUT wait_us numeric)
LANGUAGE plpgsql AS $$
DECLARE
    due numeric;
BEGIN
    PERFORM 1 FROM resilience_limits WHERE name = limit_name FOR UPDATE;
    SELECT slot INTO due FROM resilience_waiting WHERE ticket = confirmed;
    granted := FOUND;
    wait_us := greatest(0, due - floor(extract(epoch FROM clock_timestamp()) * 1000000));
    IF wait_us = 0 THEN
        UPDATE resilience_waiting SET taken = true WHERE ticket = confirmed;
    END IF;
END $$;
"""

OLD = "reserve_permits(text, integer, integer, numeric, integer, boolean, numeric)"
NEW = """reserve_permits(text, integer, integer, numeric, integer, integer, boolean, boolean,
    numeric)"""


def upgrade() -> None:
    op.execute(f"DROP FUNCTION {OLD}")
    op.execute(WAITING)
    op.execute(RESERVE)


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {NEW}")
    op.execute("DROP FUNCTION confirm_permits(text, bigint)")
    op.execute("DROP TABLE resilience_waiting")
    script = op.get_context().script
    limits = script.get_revision("0002").module.LIMITS  # type: ignore[union-attr]  # is running
    op.execute(limits[limits.index("CREATE FUNCTION") :])
