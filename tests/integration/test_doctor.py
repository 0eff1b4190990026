"""`enrichment doctor`: who listens on the ports of the settings."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask, Response
from werkzeug.serving import make_server

from enrichment.cli.doctor import CheckResult, check_ports, run_checks
from enrichment.config import Settings
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers.running_stack import free_ports
from tests.helpers.server_process import serving


def ports(database_url: str | None = None, **used: int) -> dict[str, CheckResult]:
    values: dict[str, Any] = {
        f"enrichment_{name}_port": port for name, port in {**free_ports(), **used}.items()
    }
    settings = Settings(
        _env_file=None, enrichment_sandbox=True, database_url=database_url, **values
    )
    return {result.check: result for result in check_ports(settings)}


def test_free_ports_pass() -> None:
    results = ports()
    assert list(results) == ["API port", "dashboard port", "sandbox port"]
    assert all(result.ok and "is free" in result.detail for result in results.values())


@pytest.mark.parametrize("part", ["api", "dashboard"])
def test_a_running_service_passes_in_its_own_installation_only(
    part: str, db_url: str, tmp_path: Path
) -> None:
    with serving(db_url, tmp_path, part=part) as server:
        own = ports(db_url, **{part: server.port})
        others = [
            ports(
                f"{db_url}&application_name=x".replace("/test_", "/other_"), **{part: server.port}
            ),
            ports(None, **{part: server.port}),
        ]
    check = "API port" if part == "api" else "dashboard port"
    assert own[check].ok
    assert "is running" in own[check].detail
    for results in others:
        assert not results[check].ok
        assert "of another installation" in results[check].detail


def test_a_running_sandbox_passes() -> None:
    with running(create_app()) as url:
        result = ports(sandbox=urlsplit(url).port or 0)["sandbox port"]
    assert result.ok


@contextmanager
def answering_everything(body: str) -> Iterator[int]:
    app = Flask("other")
    app.add_url_rule("/<path:path>", view_func=lambda path: Response(body))
    server = make_server("127.0.0.1", 0, app)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("part", "check", "setting"),
    [
        ("api", "API port", "ENRICHMENT_API_PORT"),
        ("dashboard", "dashboard port", "ENRICHMENT_DASHBOARD_PORT"),
        ("sandbox", "sandbox port", "ENRICHMENT_SANDBOX_PORT"),
    ],
)
def test_another_program_fails_and_is_named(part: str, check: str, setting: str) -> None:
    with answering_everything("ok") as port:  # as any Streamlit program answers
        result = ports(**{part: port})[check]
    assert not result.ok
    assert str(port) in result.detail
    assert setting in result.detail
    assert f"(process {os.getpid()}) listens on it" in result.detail


def test_a_program_that_does_not_answer_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not ports(api=silent.getsockname()[1])["API port"].ok


def advised(home: Path, db_url: str, **values: Any) -> list[CheckResult]:
    settings = {
        "_env_file": None,
        "enrichment_home": home,
        "database_url": db_url,
        **{f"enrichment_{name}_port": port for name, port in free_ports().items()},
        **values,
    }
    results = run_checks(lambda: Settings.load(**settings))
    assert all(result.ok for result in results if result.advice)
    return [result for result in results if result.advice]


def test_plan_and_hour_that_do_not_fit_are_advised_about(db_url: str, tmp_path: Path) -> None:
    with running(create_app(plan="free")) as url:
        real = {
            "polygon_api_key": "key",
            "polygon_base_url": url,
            "providers_stock": "polygon",
            "providers_etf": "polygon",
            "providers_crypto": "polygon",
        }
        (advice,) = advised(tmp_path, db_url, **real)
        assert advised(tmp_path, db_url, **real, enrichment_hour=6) == []
    assert "polygon publishes a day of US stocks after midnight in New York" in advice.detail
    assert "ENRICHMENT_HOUR=6 fits" in advice.detail


def test_the_sandbox_is_on_no_plan(db_url: str, tmp_path: Path) -> None:
    assert advised(tmp_path, db_url, enrichment_sandbox=True) == []


def test_symbols_of_no_schedule_are_advised_about(
    db: Database, db_url: str, tmp_path: Path
) -> None:
    Commands(db).track([parse_tracked("VOD.L", "stock", "1d")], actor="test")
    only_us = 'schedule = [{name = "us", exchanges = ["XNYS"], time = "06:00"}]'
    (advice,) = advised(tmp_path, db_url, enrichment_sandbox=True, schedules=only_us)
    assert "No schedule covers 1 symbol (stock of XLON)" in advice.detail
