"""Pages of the dashboard in Streamlit's tester, without a browser, and data for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from enrichment.services.alerts.rules import DEFAULT_RULES
from enrichment.services.alerts.service import AlertService
from enrichment.services.commands import Commands
from enrichment.warehouse.alerts import AlertStore
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.resilience_state import ResilienceStore
from enrichment.wiring import alerts as alerting
from resilience import init_resilience_manager
from tests.helpers.api_client import run_open_items, track_symbols

PAGES = Path(__file__).parents[2] / "enrichment" / "dashboard" / "pages"

NAMES = ("overview", "jobs", "symbols", "quality", "resilience", "operations")


def open_page(name: str, url: str, monkeypatch: pytest.MonkeyPatch, **query: str) -> AppTest:
    """The page on this database at an address with this query, with empty caches."""
    monkeypatch.setenv("DATABASE_URL", url)
    st.cache_resource.clear()
    st.cache_data.clear()
    page = AppTest.from_file(str(PAGES / f"{name}.py"), default_timeout=30)
    for key, value in query.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception, page.exception
    return page


def seed_for_pages(db: Database) -> Commands:
    """A job with a failure, a breaker that opened, a worker, alerts."""
    commands = track_symbols(db)
    commands.trigger(actor="cli:ada", reason="month end")
    run_open_items(db, failing="MSFT")
    manager = init_resilience_manager(publisher=ResilienceStore(db, "w1"))
    breaker = manager.register_circuit_breaker("polygon_api")
    manager.register_rate_limiter("polygon_api", 5, 60, 5)
    manager.register_bulkhead("polygon_api")
    breaker.force_open()
    breaker.reset()
    manager.close()
    registry = WorkerRegistry(db, "w1")
    registry.register(host="here", pid=1, version="test", threads=5)
    reader = ReadModels(db)
    readings = alerting.read_inputs(reader)
    AlertService(
        AlertStore(db), readings, DEFAULT_RULES, {}, evaluator="test", interval=0.0
    ).evaluate()
    return commands


def page_text(page: AppTest) -> str:
    parts = (page.markdown, page.caption, page.info, page.warning, page.error, page.success)
    return "\n".join(str(element.value) for kind in parts for element in kind)


def chart_count(page: AppTest) -> int:
    return len(page.get("plotly_chart"))
