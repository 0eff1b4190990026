"""The schema: upgrades from nothing, by several at once, with a column for every feature."""

from __future__ import annotations

import threading

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from enrichment.domain.errors import ConfigurationError
from enrichment.pipeline.features import FEATURES
from enrichment.warehouse import schema
from enrichment.warehouse.database import Database
from enrichment.warehouse.resilience_state import SharedLimits
from enrichment.warehouse.schema import (
    REVISION,
    configuration,
    is_current,
    migrate,
    require_current,
)
from enrichment.warehouse.series.snapshots import COLUMNS
from enrichment.wiring.database import upgrade_schema
from resilience import Limit, Priority


@pytest.fixture
def empty(db: Database) -> Database:
    """A database without any of our tables."""
    with db.begin() as conn:
        conn.execute(text("DROP SCHEMA public CASCADE"))
        conn.execute(text("CREATE SCHEMA public"))
    return db


def test_the_program_and_the_migrations_agree_on_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(configuration()).get_current_head() == REVISION


def test_an_empty_database_is_reported_and_can_be_upgraded(empty: Database) -> None:
    with pytest.raises(ConfigurationError, match="enrichment db upgrade"):
        require_current(empty, FEATURES)
    upgrade_schema(empty)
    require_current(empty, FEATURES)


def test_several_processes_may_upgrade_at_once(empty: Database) -> None:
    failures: list[BaseException] = []

    def upgrade() -> None:
        try:
            upgrade_schema(empty)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=upgrade) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert is_current(empty, FEATURES)


def test_a_new_feature_gets_its_column_and_a_bad_name_is_refused(db: Database) -> None:
    assert not is_current(db, [*FEATURES, "beta_60"])
    migrate(db, {"beta_60": "number", "mood": "label"})
    assert is_current(db, [*FEATURES, "beta_60", "mood"])
    with pytest.raises(ValueError, match="letters, digits"):
        migrate(db, {'x"; DROP TABLE bars; --': "number"})


def test_migrations_go_back_and_forth(db: Database) -> None:
    with db.begin() as conn:
        config = configuration()
        config.attributes["connection"] = conn
        command.downgrade(config, "base")
        left = conn.execute(
            text(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')"
                " AND relnamespace = 'public'::regnamespace"
            )
        ).scalars()
        assert list(left) == ["alembic_version"]
    upgrade_schema(db)
    assert is_current(db, FEATURES)


def test_the_newest_bars_of_a_series_are_read_by_an_index_only_scan(db: Database) -> None:
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
                " SELECT 'S' || s, '1d', timestamptz '2020-01-01' + n * interval '1 day',"
                " 1, 1, 1, 1, 1 FROM generate_series(1, 300) n, generate_series(1, 40) s"
            )
        )
        conn.execute(text("VACUUM ANALYZE bars"))
        plan = conn.execute(
            text(
                f"EXPLAIN (ANALYZE, TIMING off) SELECT {', '.join(COLUMNS)} FROM bars"
                " WHERE symbol = 'S7' AND timeframe = '1d' AND ts >= '2020-03-01'"
            )
        ).scalars()
        told = "\n".join(plan)
    assert "Index Only Scan using bars_pkey" in told
    assert "Heap Fetches: 0" in told


def test_a_primary_key_without_all_columns_is_rebuilt(db: Database) -> None:
    carried = (
        "SELECT pg_get_indexdef('bars_pkey'::regclass)",
        "ALTER TABLE bars DROP CONSTRAINT bars_pkey",
        "ALTER TABLE bars ADD PRIMARY KEY (symbol, timeframe, ts)",
    )
    with db.begin() as conn:
        before = conn.execute(text(carried[0])).scalar_one()
        for statement in carried[1:]:
            conn.execute(text(statement))
        assert conn.execute(text(carried[0])).scalar_one() != before
        schema.include_in_key(conn)
        assert conn.execute(text(carried[0])).scalar_one() == before


def test_permits_that_an_older_version_granted_still_count(db: Database) -> None:
    with db.begin() as conn:
        config = configuration()
        config.attributes["connection"] = conn
        command.downgrade(config, "0018")
        reserve = text("SELECT wait_us FROM reserve_permits('v', 1, 5, 60000000, 5, true, NULL)")
        assert [conn.execute(reserve).scalar() for _ in range(5)] == [0] * 5
    upgrade_schema(db)
    limit = Limit(rate=5, interval=60.0, burst=5, normal_burst=1, strict=True)
    wait = SharedLimits(db).reserve("v", limit, 1, Priority.HIGH, None).wait
    assert 50 < wait <= 60
