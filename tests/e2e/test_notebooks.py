"""The notebooks run on a database with something to show and on one without, and are saved tidily.

`python -m tests.e2e.refresh_notebooks` saves them anew.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from typing import Any

import nbformat
import pytest

from enrichment.warehouse.database import Database
from tests.e2e.refresh_notebooks import NOTEBOOKS, ROOT, executed, tidied
from tests.helpers.troubled_nights import quiet_night, troubled_nights

NAMES = ("quality_overview", "anatomy_of_a_symbol", "comparing_providers", "job_post_mortem")
FILES = [NOTEBOOKS / f"{name}.ipynb" for name in NAMES]
MAX_CELL_LINES = 15


def outputs(node: nbformat.NotebookNode) -> list[Any]:
    return [output for cell in node.cells for output in cell.get("outputs", [])]


def texts(node: nbformat.NotebookNode) -> str:
    """All that the outputs say in words."""
    said = [o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs(node)]
    return "\n".join(said)


def pictures(node: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(node))


@pytest.fixture(params=NAMES)
def node(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    """A saved notebook."""
    return nbformat.read(NOTEBOOKS / f"{request.param}.ipynb", as_version=4)


def test_they_show_what_went_wrong(db: Database, db_url: str) -> None:
    with troubled_nights(db, db_url) as environment:
        nodes = dict(zip(NAMES, executed(FILES, environment), strict=True))
    for name, node in nodes.items():
        assert [o for o in outputs(node) if o.get("name") == "stderr"] == [], name
        assert pictures(node) >= 3, name
    overview, anatomy, providers, job = (texts(nodes[name]) for name in NAMES)
    assert "2 sessions behind" in overview
    assert "vendor_outage" in overview
    assert "negative_volume" in overview
    assert "outlier" in anatomy
    assert anatomy.count("source_updated") == 3
    lost, total, score = re.findall(r"1 - (\S+) = (\S+); score (\S+)", anatomy)[0]
    assert float(lost) > 0
    assert total == score
    assert len(re.findall(r"close is \S+ here and \S+ at polygon", providers)) == 2
    assert "UnknownSymbol" in job
    assert "probes succeeded" in job


def test_they_have_words_for_a_database_without_trouble(db: Database, db_url: str) -> None:
    with quiet_night(db, db_url) as environment:
        nodes = executed(FILES, environment)
    for name, node in zip(NAMES, nodes, strict=True):
        assert [o for o in outputs(node) if o.get("name") == "stderr"] == [], name


def test_there_are_no_others() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(NAMES)


def test_the_saved_ones_show_their_outputs_and_nothing_of_a_machine(
    node: nbformat.NotebookNode,
) -> None:
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert pictures(node) >= 3
    assert {o.output_type for o in outputs(node)} <= {"stream", "execute_result", "display_data"}
    assert [o for o in outputs(node) if o.get("name") == "stderr"] == []
    said = texts(node) + "".join(
        str(o.get("data", {}).get("text/html", "")) + cell.source
        for cell in node.cells
        for o in cell.get("outputs", [])
    )
    assert re.findall(r"(?:/tmp|/home|/Users|/root|/var|/usr|/opt)/\S*|[A-Z]:\\\\\S*", said) == []
    assert re.findall(r"127\.0\.0\.1|localhost|postgresql\S*://", said) == []
    assert tidied(nbformat.from_dict(node)) == node


def test_cells_are_short_and_hold_no_logic(node: nbformat.NotebookNode) -> None:
    for cell in node.cells:
        if cell.cell_type != "code":
            continue
        assert len(cell.source.splitlines()) <= MAX_CELL_LINES, cell.source
        kinds = {type(part) for part in ast.walk(ast.parse(cell.source))}
        assert kinds.isdisjoint({ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef})


@pytest.mark.parametrize(
    "command", [("check", "--ignore=T20"), ("format", "--check")], ids=["lint", "format"]
)
def test_their_code_is_clean(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, str(NOTEBOOKS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
