"""`db dump` and `db restore`: the same rows on another server."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from enrichment.domain.errors import ConfigurationError
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse import reader_role
from enrichment.warehouse.database import Database, parse_url
from enrichment.warehouse.dump import dump, restore
from enrichment.wiring.database import upgrade_schema
from tests.helpers.database_servers import debian_server, embedded_server, run_as_admin

BARS = """
INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)
SELECT 'S' || s, '1d', timestamptz '2020-01-01 05:00Z' + n * interval '1 day',
    n / 3.0, n, 'NaN', n * 1e-7, n * 1000
FROM generate_series(1, 300) n, generate_series(1, 4) s
"""


def filled(db: Database) -> Database:
    commands = Commands(db)
    commands.track([parse_tracked("AAPL", "stock", "1d,1h")], actor="O'Brien – \\ é")
    commands.trigger(actor="test")
    with db.begin() as conn:
        conn.execute(text(BARS))
    return db


def empty_database(url: str, name: str) -> Database:
    run_as_admin(url, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    return Database(parse_url(url).set(database=name).render_as_string(False), pool_size=2)


def test_a_dump_restores_on_another_embedded_server(db: Database, tmp_path: Path) -> None:
    file = tmp_path / "a b&c.dump"
    dumped = dump(filled(db), file)
    assert dumped["bars"][0] == 1200
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with embedded_server() as url:
        other = empty_database(url, "restored")
        assert restore(other, file) == dumped
        assert reader_role.role(other) == reader_role.READER
        Commands(other).track([parse_tracked("MSFT", "stock", "1d")], actor="test")
        with pytest.raises(ConfigurationError, match="empty database"):
            restore(other, file)
        other.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, f"{file.name}.sums.json"]


def test_a_dump_of_a_plain_owner_restores_on_debians_server(tmp_path: Path) -> None:
    file = tmp_path / "w.dump"
    with debian_server() as url:
        run_as_admin(url, "CREATE ROLE app LOGIN")
        source = empty_database(url, "source")
        run_as_admin(source.url.render_as_string(False), "GRANT ALL ON SCHEMA public TO app")
        owned = Database(source.url.set(username="app").render_as_string(False), pool_size=2)
        upgrade_schema(owned)
        dumped = dump(filled(owned), file)
        other = empty_database(url, "restored")
        assert restore(other, file) == dumped
        for database in (source, owned, other):
            database.close()


def test_a_difference_is_an_error(db: Database, server: Database, tmp_path: Path) -> None:
    file = tmp_path / "w.dump"
    dump(filled(db), file)
    sums = Path(f"{file}.sums.json")
    stored = json.loads(sums.read_text())
    stored["bars"][0] += 1
    sums.write_text(json.dumps(stored))
    other = empty_database(server.url.render_as_string(False), "differing")
    try:
        with pytest.raises(ConfigurationError, match="differ from what was dumped: bars;"):
            restore(other, file)
    finally:
        other.close()
        run_as_admin(server.url.render_as_string(False), "DROP DATABASE differing")


def test_what_can_not_be_dumped_or_restored_is_named(db: Database, tmp_path: Path) -> None:
    existing = tmp_path / "w.dump"
    existing.write_text("no dump")
    with pytest.raises(ConfigurationError, match="exists"):
        dump(db, existing)
    with pytest.raises(ConfigurationError, match="can't be written"):
        dump(db, tmp_path / "nowhere" / "w.dump")
    with pytest.raises(ConfigurationError, match="is no file"):
        restore(db, tmp_path / "absent.dump")


def test_a_broken_dump_changes_nothing(server: Database, tmp_path: Path) -> None:
    (file := tmp_path / "w.dump").write_text("no dump")
    other = empty_database(server.url.render_as_string(False), "broken")
    try:
        with pytest.raises(ConfigurationError, match="pg_restore failed, nothing was changed"):
            restore(other, file)
    finally:
        other.close()
        run_as_admin(server.url.render_as_string(False), "DROP DATABASE broken")


def test_psql_takes_the_address_that_db_url_prints(db_url: str, tmp_path: Path) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed")
    printed = subprocess.run(
        [sys.executable, "-m", "enrichment", "db", "url"],
        env={**os.environ, "DATABASE_URL": db_url, "ENRICHMENT_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    done = subprocess.run(
        [psql, "-Atc", "SELECT 6 * 7", printed], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "42"
