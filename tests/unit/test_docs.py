"""The README names everything a user can set, type or ask for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from api import create_app
from enrichment.cli.main import app
from enrichment.config import Settings
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`{name.upper()}`" in README


def test_every_documented_setting_exists() -> None:
    table = README.split("## Configuration")[1].split("\n## ")[0]
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", table))
    assert documented == {name.upper() for name in Settings.model_fields}


def test_every_command_is_documented() -> None:
    group = typer.main.get_command(app)
    table = README.split("## Command line")[1].split("\n## ")[0]
    for name in group.commands:  # type: ignore[attr-defined]  # it is a group
        assert re.search(rf"\b{name}\b", table), name


def test_every_route_is_documented() -> None:
    db = Database("postgresql://nobody@127.0.0.1:1/none")
    reader = ReadModels(db, hour=1, minute=30, enabled=True)
    flask = create_app(reader, Commands(db), ready=db.ping)
    table = README.split("## JSON API")[1].split("\n## ")[0]
    for rule in flask.url_map.iter_rules():
        if rule.endpoint == "static":
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule).removeprefix("/api/v1/enrichment")
        assert path in table, path
