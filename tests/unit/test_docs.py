"""The documentation names everything a user can set, type or ask for, and nothing that is not
there.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from api import create_app
from enrichment.cli.main import app
from enrichment.config import Settings
from enrichment.domain.statuses import (
    GapCause,
    ItemStatus,
    JobState,
    SeriesStatus,
    WorkerState,
)
from enrichment.pipeline import fetch_plan
from enrichment.pipeline.features import FEATURES
from enrichment.pipeline.validation import CHECKS
from enrichment.services.alerts.metrics import METRICS
from enrichment.services.alerts.rules import DEFAULT_RULES
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels

ROOT = Path(__file__).parents[2]
README_WORDS = 1_800
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MODULE = re.compile(r"python -m ((?:tests|enrichment)\.[\w.]+)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
TOP = ("api", "docs", "enrichment", "notebooks", "resilience", "tests", r"\.ci", r"\.github")
IN_REPOSITORY = re.compile(rf"^(?:(?:{'|'.join(TOP)})/[\w./-]*|[\w.-]+\.(?:md|toml|py|yaml|yml))$")
# Files of the user's own, and those that a recipe creates.
PLACEHOLDERS = (
    "alerts.toml",
    "schedules.toml",
    "secrets.toml",
    "coinbase.py",
    "test_coinbase.py",
    "nights.py",
)

EXAMPLES = {"roc_10", "trades_without_volume", "wide_range", "Paused"}  # what recipes add


@cache
def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def everything() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in PAGES)


def code_spans(text: str) -> Iterator[str]:
    """What stands between backticks within a line."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)


def shell_lines(text: str) -> Iterator[str]:
    """The commands of the shell examples, a continued line as one, without comments."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield from re.split(r"&&|\||\$\(|\)", line.split("  #")[0])


def rows(text: str) -> dict[str, list[str]]:
    """First cell → all cells of every table row, without backticks."""
    lines = (line for line in text.splitlines() if line.startswith("|"))
    cells = ([c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    return {row[0].strip("`"): row for row in cells}


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


# Settings


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    documented = rows(page("docs/configuration.md"))[name.upper()][1]
    field = Settings.model_fields[name]
    if field.default_factory is not None:
        return
    assert documented == shown(field.default)


def shown(default: Any) -> str:
    """A default as it is written into the environment."""
    if default in (None, ()):
        return "none"
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    return f"`{text.lower() if isinstance(default, bool) else text}`"


def test_every_documented_setting_exists() -> None:
    table = page("docs/configuration.md").split("\n## For development")[0]
    documented = {name for name in rows(table) if re.fullmatch(r"[A-Z][A-Z_]+", name)}
    assert documented == {name.upper() for name in Settings.model_fields}


# Commands


def command_paths(group: Any, prefix: str = "enrichment") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from command_paths(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


COMMANDS = dict(command_paths(typer.main.get_command(app)))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_documented(command: str) -> None:
    table = page("docs/operations.md").split("\n## Command line")[1].split("\n## ")[0]
    assert re.search(rf"`{command}[`\s]", table), command


def mentioned_commands() -> Iterator[tuple[str, str]]:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for mention in (*code_spans(text), *shell_lines(text)):
            if match := re.search(r"(?:^|\s)(enrichment(?: .*)?)$", mention.strip()):
                yield path.name, match[1]


def test_every_mentioned_command_and_option_exists() -> None:
    wrong = [(name, line) for name, line in mentioned_commands() if not exists(line)]
    assert wrong == []


def exists(line: str) -> bool:
    """Whether the command of this line, and each of its options, is there."""
    words = shlex.split(re.sub(r"[\[\]]", " ", line))
    options = {word.split("=")[0] for word in words if word.startswith("--")}
    for length in (3, 2):
        if (command := COMMANDS.get(" ".join(words[:length]))) is not None:
            return options <= {"--help", *(o for param in command.params for o in param.opts)}
    groups = {path.rsplit(" ", 1)[0] for path in COMMANDS}
    return " ".join(words) in groups or words[1:] in (["--help"], ["--version"])


# The API


def test_the_documented_routes_are_those_of_the_api() -> None:
    db = Database("postgresql://nobody@127.0.0.1:1/none")
    reader = ReadModels(db)
    flask = create_app(reader, Commands(db), ready=lambda: None)
    routes = {
        re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule).removeprefix("/api/v1/enrichment")
        for rule in flask.url_map.iter_rules()
        if rule.endpoint != "static"
    }
    cells = (row[0] for row in rows(page("docs/api.md")).values())
    documented = {span.split("?")[0] for cell in cells for span in code_spans(cell)}
    assert {path for path in documented if path.startswith("/")} == routes


# Data, states and alerts


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_every_check_is_documented_with_its_severity(name: str) -> None:
    assert rows(page("docs/data.md"))[name][1] == CHECKS[name].severity


@pytest.mark.parametrize("name", list(FEATURES))
def test_every_feature_is_documented_with_its_memory(name: str) -> None:
    *_, warmup, lookback = rows(page("docs/data.md"))[name]
    assert warmup.removeprefix("≤ ") == str(FEATURES[name].warmup)
    assert lookback == str(FEATURES[name].lookback)


def test_every_alert_rule_and_metric_is_documented() -> None:
    documented = set(code_spans(page("docs/operations.md")))
    assert {rule.name for rule in DEFAULT_RULES} <= documented
    assert set(METRICS) <= documented


@pytest.mark.parametrize("states", [JobState, ItemStatus, SeriesStatus, WorkerState, GapCause])
def test_every_state_is_documented(states: type[JobState]) -> None:
    text = page("docs/architecture.md") + page("docs/data.md")
    assert [state for state in states if not re.search(rf"\b{state}\b", text)] == []


def test_every_table_is_documented() -> None:
    folder = ROOT / "enrichment" / "warehouse" / "migrations" / "versions"
    created = {
        table
        for file in folder.glob("*.py")
        for table in re.findall(r"CREATE TABLE (\w+)", file.read_text(encoding="utf-8"))
    }
    documented = set(rows(page("docs/architecture.md")))
    assert sorted(created - documented) == []


# The structure


def test_the_documented_layers_are_those_of_the_contract() -> None:
    section = page("docs/architecture.md").split("\n## Layers")[1]
    documented = section.split("```text\n")[1].split("\n```")[0].splitlines()
    contracts = tomllib.loads(page("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    assert documented == next(c for c in contracts if c["type"] == "layers")["layers"]


def test_the_documented_fetch_plan_is_that_of_the_code() -> None:
    table = rows(fetch_plan.__doc__ or "")
    section = page("docs/architecture.md").split("\n## What a run fetches and reads")[1]
    assert table
    assert rows(section.split("\n## ")[0]) == table


def test_every_benchmark_is_documented() -> None:
    programs = {
        f"tests.benchmarks.{file.stem}"
        for file in (ROOT / "tests" / "benchmarks").glob("*.py")
        if "__main__" in file.read_text(encoding="utf-8")
    }
    assert sorted(programs - set(MODULE.findall(page("docs/benchmarks.md")))) == []


# Words, links and files


def test_the_readme_stays_short() -> None:
    assert len(page("README.md").split()) <= README_WORDS


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    broken = []
    for link in (a or b for a, b in LINK.findall(text)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        found = file.exists() and (
            not anchor or anchor in anchors(file.read_text(encoding="utf-8"))
        )
        if not found:
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_and_modules_exist(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        return  # it also names what is gone
    text = path.read_text(encoding="utf-8")
    names = {span.split("::")[0] for span in code_spans(text) if IN_REPOSITORY.match(span)}
    missing = {
        name for name in names if Path(name).name not in PLACEHOLDERS and not is_there(name, path)
    }
    modules = {name.rstrip(".") for name in MODULE.findall(text)}
    missing |= {name for name in modules if importlib.util.find_spec(name) is None}
    assert sorted(missing) == []


def test_names_in_the_recipes_exist() -> None:
    source = "\n".join(
        file.read_text(encoding="utf-8")
        for folder in ("api", "enrichment", "resilience", "tests")
        for file in (ROOT / folder).rglob("*.py")
    )
    words = set(re.findall(r"\w+", source))
    names = {span for span in code_spans(page("CONTRIBUTING.md")) if span.isidentifier()}
    assert sorted(names - words - EXAMPLES) == []


def is_there(name: str, named_in: Path) -> bool:
    """Whether it is a path of the repository or beside the page, or the only file of its name."""
    if (ROOT / name).exists() or (named_in.parent / name).exists():
        return True
    return "/" not in name and any(ROOT.glob(f"*/**/{name}"))
