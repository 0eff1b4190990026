"""An installation of the version before: its data folder and its database, used by this version."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres, temporary_home
from tests.helpers import old_version
from tests.helpers.running_stack import run_command, running_stack

STORED = {"AAPL": 79, "IBM": 77, "MSFT": 78, "SIM7": 17, "X:SIM1USD": 166}


@pytest.fixture
def home() -> Iterator[Path]:
    """A data folder as `enrichment up` of the version before left it."""
    folder = temporary_home()
    with EmbeddedPostgres(folder / "postgres") as server:
        old_version.restore(server.url)
    (folder / "sandbox.json").write_text(json.dumps({"anchor": old_version.ANCHOR.isoformat()}))
    (folder / "enrichment.log").write_text("worker    stopping …\n")
    yield folder
    shutil.rmtree(folder)


def test_a_data_folder_is_upgraded_when_it_is_first_used(
    home: Path, script: Path, tmp_path: Path
) -> None:
    environment = {"ENRICHMENT_HOME": str(home), "ENABLE_DAILY_ENRICHMENT": "false"}
    listed = run_command(script, "symbols", "list", "--json", **environment)
    assert listed.returncode == 0, listed.stderr
    with running_stack(script, "up", tmp_path, **environment) as up:
        status, symbols = up.request("/api/v1/enrichment/symbols")
        assert status == 200
        assert {one["symbol"] for one in symbols["symbols"]} >= STORED.keys()
        for symbol, count in STORED.items():
            status, details = up.request(f"/api/v1/enrichment/symbols/{symbol}")
            assert status == 200
            assert sum(one["bars"] for one in details["symbol"]["timeframes"]) >= count
        # The recorded bars of the sandbox still end on the day that the folder names.
        sandboxes = [p for p in up.processes() if "--anchor" in p.cmdline()]
        assert [p.cmdline()[-1] for p in sandboxes] == [old_version.ANCHOR.isoformat()]


def test_a_database_of_ones_own_is_upgraded_by_a_command(server: Database, script: Path) -> None:
    url = server.url.set(database="old_installation").render_as_string(hide_password=False)
    with server.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("CREATE DATABASE old_installation"))
        try:
            old_version.restore(url)
            refused = run_command(script, "status", DATABASE_URL=url)
            assert refused.returncode == 1
            assert "enrichment db upgrade" in refused.stderr
            assert run_command(script, "db", "upgrade", DATABASE_URL=url).returncode == 0
            status = run_command(script, "status", "--json", DATABASE_URL=url)
            assert status.returncode == 0, status.stderr
            series = json.loads(status.stdout)["series"]
            assert {s["symbol"]: s["bars"] for s in series if s["active"]} == STORED
        finally:
            conn.execute(text("DROP DATABASE old_installation WITH (FORCE)"))
