"""Data folders of any name hold an embedded server."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from tests.helpers.memory_folder import memory_folder

NAMES = [
    "Application Support",
    "it's",
    'a "quoted" one',
    "a & b; c | d",
    "1 + 1 = 2",
    "50% off %s %(x)s",
    "$HOME `id` $(id)",
    "back\\slash",
    "question?mark#hash@at",
    "Übergröße 数据",
    "-leading",
    "new\nline",
    "long-" * 30,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_server_starts_answers_and_starts_again(name: str) -> None:
    with memory_folder() as folder:
        for count in (1, 2):
            with EmbeddedPostgres(folder / name / "postgres") as server:
                db = Database(server.url, pool_size=1)
                with db.begin() as conn:
                    conn.execute(text("CREATE TABLE IF NOT EXISTS starts (n int)"))
                    conn.execute(text("INSERT INTO starts VALUES (1)"))
                    assert conn.execute(text("SELECT count(*) FROM starts")).scalar() == count
                db.close()


def test_an_empty_home_is_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENRICHMENT_HOME", raising=False)
    default = Settings(_env_file=None).enrichment_home
    monkeypatch.setenv("ENRICHMENT_HOME", "")
    assert Settings(_env_file=None).enrichment_home == default


def test_three_commands_at_once_share_a_new_home() -> None:
    with memory_folder() as folder:
        home = folder / "new"
        own = {"ENRICHMENT_HOME": str(home), "DATABASE_URL": ""}
        add = [sys.executable, "-m", "enrichment", "symbols", "add"]
        commands = [
            subprocess.Popen([*add, symbol], env={**os.environ, **own}, stderr=subprocess.PIPE)
            for symbol in ("SIM1", "SIM2", "SIM3")
        ]
        failed = [errors for c in commands for errors in c.communicate(timeout=60) if c.returncode]
        assert failed == []
        with EmbeddedPostgres(home / "postgres") as server:
            db = Database(server.url, pool_size=1)
            with db.begin() as conn:
                tracked = conn.execute(text("SELECT count(*) FROM tracked_symbols")).scalar()
            db.close()
    assert tracked == 3
