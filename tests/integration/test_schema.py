"""The schema: upgrades from nothing, by several at once, with a column for every feature."""

from __future__ import annotations

import threading

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from enrichment import bootstrap
from enrichment.errors import ConfigurationError
from enrichment.features import FEATURES
from enrichment.storage.database import Database
from enrichment.storage.revision import REVISION, is_current, require_current
from enrichment.storage.schema import configuration, migrate


@pytest.fixture
def empty(db: Database) -> Database:
    """A database without any of our tables."""
    with db.begin() as conn:
        conn.execute(text("DROP SCHEMA public CASCADE"))
        conn.execute(text("CREATE SCHEMA public"))
    return db


def test_the_program_and_the_migrations_agree_on_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(configuration()).get_current_head() == REVISION


def test_an_empty_database_says_how_to_upgrade_and_is_current_afterwards(empty: Database) -> None:
    with pytest.raises(ConfigurationError, match="enrichment db upgrade"):
        require_current(empty, FEATURES)
    bootstrap.upgrade(empty)
    require_current(empty, FEATURES)


def test_several_processes_may_upgrade_at_once(empty: Database) -> None:
    failures: list[BaseException] = []

    def upgrade() -> None:
        try:
            bootstrap.upgrade(empty)
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
    bootstrap.upgrade(db)
    assert is_current(db, FEATURES)
