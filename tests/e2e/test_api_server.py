"""The API server: graceful shutdown on SIGTERM, a read-only database role, a lost database."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from sqlalchemy import text

from enrichment.warehouse.database import Database
from tests.helpers.api_client import ROOT, track_symbols
from tests.helpers.server_process import ServerProcess, serving
from tests.helpers.waiting import until


def request_json(api: ServerProcess, path: str, method: str = "GET") -> tuple[int, Any]:
    request = urllib.request.Request(f"{api.url}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_sigterm_lets_requests_in_flight_finish(db: Database, db_url: str, tmp_path: Path) -> None:
    track_symbols(db)
    responses: list[tuple[int, Any]] = []
    with serving(db_url, tmp_path) as api:
        client = threading.Thread(
            target=lambda: responses.append(request_json(api, f"{ROOT}/trigger?wait=2", "POST"))
        )
        client.start()
        until(lambda: jobs(db) == 1, "the request is being answered")
        api.process.send_signal(signal.SIGTERM)
        client.join(20)
        assert api.process.wait(20) == 0
    ((status, value),) = responses
    assert (status, value["status"], value["symbols_to_process"]) == (202, "triggered", 3)


def jobs(db: Database) -> int:
    with db.begin() as conn:
        return int(conn.execute(text("SELECT count(*) FROM enrichment_jobs")).scalar_one())


def test_it_reads_with_a_read_only_role(db: Database, db_url: str, tmp_path: Path) -> None:
    with serving(db_url, tmp_path) as api:
        assert request_json(api, f"{ROOT}/dashboard/overview")[0] == 200
        with db.begin() as conn:
            roles = conn.execute(
                text(
                    "SELECT DISTINCT usename FROM pg_stat_activity"
                    " WHERE application_name = 'enrichment-api-reader'"
                )
            ).all()
            privileges = conn.execute(
                text(
                    "SELECT DISTINCT privilege_type FROM information_schema.role_table_grants"
                    " WHERE grantee = 'enrichment_reader' AND table_schema = 'public'"
                )
            ).scalars()
            assert list(privileges) == ["SELECT"]
            assert len(roles) == 1


def test_without_the_database_it_stays_alive_and_responds_with_503(
    db: Database, db_url: str, tmp_path: Path, server: Database
) -> None:
    with serving(db_url, tmp_path) as api:
        assert request_json(api, "/readyz")[0] == 200
        with server.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            name = db.url.database
            conn.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            try:
                conn.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname=:n"),
                    {"n": name},
                )
                assert request_json(api, "/livez")[0] == 200
                assert request_json(api, "/readyz")[0] == 503
                status, problem = request_json(api, f"{ROOT}/dashboard/overview")
                assert (status, problem["title"]) == (503, "Database unavailable")
            finally:
                conn.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        assert request_json(api, f"{ROOT}/dashboard/overview")[0] == 200


def test_it_does_not_listen_beyond_loopback_without_a_token(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "enrichment", "api"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ENRICHMENT_API_HOST": "0.0.0.0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert completed.returncode != 0
    assert "ENRICHMENT_API_TOKEN" in completed.stdout + completed.stderr
