"""The product's structure: its units and imports, and the files that a reader of one run meets.

    python -m tests.benchmarks.structure [--files]

A first run of one symbol and a run that finds nothing new, each from the claim of the item to the
end of its job, on one thread, an embedded server and the sandbox. A file is entered when one of its
functions is called; it changes when the function that is called next is in another one.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from rich.console import Console

from enrichment.config import Settings
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database, DatabaseClock
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.series.warehouse import Warehouse
from enrichment.wiring.database import upgrade_schema
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager
from tests.benchmarks.report import Figure, parser, tell
from tests.helpers import import_graph

ROOT = Path(__file__).parents[2]
NOT_OF_A_RUN = ("enrichment/sandbox/", "tests/")  # the vendor and this program itself


def source_files() -> list[Path]:
    """The product's Python files."""
    folders = [ROOT / name for name in import_graph.PACKAGES]
    return [ROOT / "app.py", *(file for folder in folders for file in sorted(folder.rglob("*.py")))]


def line_count(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def function_lengths(file: Path) -> Iterator[int]:
    """Lines of each function's body, from the first statement after its docstring to its end."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body:
                yield (body[-1].end_lineno or 0) - body[0].lineno + 1


def structure() -> Iterator[Figure]:
    graph, contracts = import_graph.build(), import_graph.Contracts()
    imports = import_graph.unit_imports(graph)
    entries = [e for e in (ROOT / "enrichment").iterdir() if e.name != "__pycache__"]
    files = source_files()
    lengths = [length for file in files for length in function_lengths(file)]
    yield Figure("units", len(imports), "", "≤", 16)
    yield Figure("layers", len(contracts.layers), "", "≤", 8)
    yield Figure("imports between units", sum(map(len, imports.values())), "")
    yield Figure("import cycles", int(bool(import_graph.find_cycle(imports))), "", "≤", 0)
    yield Figure("imports upward", len(contracts.rejected_by_layers(graph)), "", "≤", 0)
    yield Figure("entries at the top of enrichment/", len(entries), "", "≤", 16)
    yield Figure("product files", len(files), "")
    yield Figure("product lines", sum(map(line_count, files)), "")
    yield Figure("median function", statistics.median(lengths), "lines", "≤", 6)
    yield Figure("90th percentile", statistics.quantiles(lengths, n=10)[-1], "lines", "≤", 20)


class FileTrace:
    """The product's files in the order in which a thread calls functions in them."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.entered_by_name: list[str] = []  # without operators, len() and comprehensions

    def record(self, action: Callable[[], Any]) -> None:
        sys.setprofile(self._on_event)
        try:
            action()
        finally:
            sys.setprofile(None)

    @property
    def files(self) -> Counter[str]:
        """File → calls of its functions."""
        return Counter(self.entered)

    @property
    def changes(self) -> Counter[tuple[str, str]]:
        """(left, entered) → how often."""
        return changes(self.entered)

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(NOT_OF_A_RUN):
                self.entered.append(name)
                if not frame.f_code.co_name.startswith(("__", "<")):
                    self.entered_by_name.append(name)


def changes(entered: list[str]) -> Counter[tuple[str, str]]:
    return Counter((before, after) for before, after in pairwise(entered) if before != after)


def traced_runs() -> tuple[FileTrace, FileTrace]:
    """A first run of one symbol, and one more that finds nothing new."""
    with (
        TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "postgres") as server,
        running(create_app()) as vendor,
    ):
        db = Database(server.url, pool_size=2)
        upgrade_schema(db)
        Commands(db).track([parse_tracked("AAPL", "stock", "1d")], actor="benchmark")
        settings = Settings(
            database_url=SecretStr(server.url),
            enrichment_sandbox_port=urlsplit(vendor).port or 0,
            polygon_api_key=None,
        )
        source = build_providers(settings, init_resilience_manager())
        pipeline = EnrichmentPipeline(
            source, Warehouse(db), history_days=365, now=DatabaseClock(db)
        )
        queue = JobQueue(db)

        def run() -> None:
            tasks = queue.claim("benchmark", 1)
            for task, enrich in zip(tasks, pipeline.prepare_batch(tasks), strict=True):
                enrich(task, lambda step: None)
            if not queue.close_finished_jobs():
                raise SystemExit("the job did not end")

        traces = FileTrace(), FileTrace()
        for trace in traces:
            Commands(db).trigger(actor="benchmark")
            trace.record(run)
        db.close()
    return traces


def runs(first: FileTrace, nothing_new: FileTrace) -> Iterator[Figure]:
    yield Figure("first run, files", len(first.files), "", "≤", 35)
    yield Figure("first run, changes of file", first.changes.total(), "", "≤", 150)
    named = changes(first.entered_by_name).total()
    yield Figure("… between functions called by name", named, "")
    yield Figure("nothing new, files", len(nothing_new.files), "", "≤", 25)
    yield Figure("nothing new, changes of file", nothing_new.changes.total(), "")


def show(trace: FileTrace, title: str) -> None:
    """Print the files with their calls, and the most frequent changes."""
    console = Console(soft_wrap=True)
    console.print(f"\n{title}: calls by file")
    for name, calls in trace.files.most_common():
        console.print(f"{calls:5} {name}")
    console.print(f"\n{title}: changes of file")
    for (left, entered), count in trace.changes.most_common(25):
        console.print(f"{count:5} {left} → {entered}")


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--files", action="store_true", help="name the files of the two runs")
    options = parsing.parse_args()
    first, nothing_new = traced_runs()
    if options.files:
        show(first, "first run")
        show(nothing_new, "nothing new")
    tell("structure", [*structure(), *runs(first, nothing_new)], options)


if __name__ == "__main__":
    main()
