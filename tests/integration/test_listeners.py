"""The table of listeners in SECURITY.md says what the program does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from api.protection import MAX_BODY_BYTES
from api.server import serve as serve_api
from enrichment.config import Settings
from enrichment.dashboard.requests import MAX_UPLOAD_MEGABYTES
from enrichment.dashboard.server import allowed_hosts
from enrichment.dashboard.server import serve as serve_dashboard
from enrichment.domain.errors import ConfigurationError
from enrichment.warehouse.database import Database

DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}


@pytest.fixture(scope="module")
def listeners() -> dict[str, list[str]]:
    """Process → its default address, authentication, what it needs beyond loopback, body."""
    text = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")
    section = text.split("## What listens where")[1].split("\n\nWho can reach")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[2:]}


def default(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)  # type: ignore[call-arg]  # of pydantic-settings


@pytest.mark.parametrize(
    ("process", "address"),
    [
        ("API", f"{DEFAULTS['enrichment_api_host']}:{DEFAULTS['enrichment_api_port']}"),
        (
            "dashboard",
            f"{DEFAULTS['enrichment_dashboard_host']}:{DEFAULTS['enrichment_dashboard_port']}",
        ),
        ("sandbox vendor", default().sandbox_url.removeprefix("http://")),
    ],
)
def test_the_default_addresses_are_loopbacks(
    listeners: dict[str, list[str]], process: str, address: str
) -> None:
    assert listeners[process][0] == f"`{address}`"
    assert address.startswith("127.0.0.1:")


def test_what_is_needed_beyond_loopback_is_required(listeners: dict[str, list[str]]) -> None:
    assert "ENRICHMENT_API_TOKEN" in listeners["API"][2]
    with pytest.raises(ConfigurationError, match="ENRICHMENT_API_TOKEN"):
        serve_api(default(enrichment_api_host="0.0.0.0"))
    assert "password or OpenID" in listeners["dashboard"][2]
    with pytest.raises(ConfigurationError, match="ENRICHMENT_DASHBOARD_PASSWORD"):
        serve_dashboard(default(enrichment_dashboard_host="0.0.0.0"))


def test_the_largest_bodies(listeners: dict[str, list[str]]) -> None:
    assert re.match(rf"{MAX_BODY_BYTES // 10**6} MB", listeners["API"][3])
    assert re.match(rf"{MAX_UPLOAD_MEGABYTES} MB", listeners["dashboard"][3])


def test_without_signing_in_the_dashboard_answers_to_loopbacks_names_only(
    listeners: dict[str, list[str]],
) -> None:
    assert "only to loopback host names" in listeners["dashboard"][1]
    assert set(allowed_hosts(default(), protected=False)) == {"localhost", "127.0.0.1", "::1"}
    assert allowed_hosts(default(), protected=True) == ()
    named = default(enrichment_dashboard_allowed_hosts="Data.Example,x")
    assert {"data.example", "x"} < set(allowed_hosts(named, protected=True))


def test_the_embedded_server_listens_on_a_private_socket_only(
    listeners: dict[str, list[str]], server: Database
) -> None:
    assert listeners["embedded PostgreSQL"][0] == "Unix socket of mode 0700, no TCP port"
    with server.begin() as conn:
        names = ("listen_addresses", "unix_socket_permissions")
        values = [conn.exec_driver_sql(f"SHOW {name}").scalar() for name in names]
    if server.url.host is None:  # not where TEST_DATABASE_URL names another server
        assert values == ["", "0700"]
