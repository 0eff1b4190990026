"""How the benchmarks tell what they found: a table for people, and JSON with `--json FILE`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

Than = Literal["≥", "≤"]


@dataclass(frozen=True)
class Figure:
    """One measured value. aim: what it should at least, or at most, be."""

    name: str
    value: float
    unit: str
    than: Than | None = None
    aim: float | None = None

    @property
    def met(self) -> bool | None:
        if self.aim is None:
            return None
        return self.value >= self.aim if self.than == "≥" else self.value <= self.aim

    @property
    def told(self) -> tuple[str, str, str, str]:
        """Name, value with its unit, aim, and whether it is met."""
        aim = "" if self.aim is None else f"{self.than} {number(self.aim)}"
        verdict = {None: "", True: "met", False: "missed"}[self.met]
        return self.name, f"{number(self.value)} {self.unit}".strip(), aim, verdict


def number(value: float) -> str:
    """Three digits that say something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that knows `--json`."""
    found = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    found.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return found


def tell(name: str, figures: Iterable[Figure], options: argparse.Namespace) -> None:
    """Print the figures and, where asked for, write them as JSON."""
    found = list(figures)
    Console().print(table(found, name))
    write(name, found, options)


def write(
    name: str, figures: Iterable[Figure], options: argparse.Namespace, **more: object
) -> None:
    """Write the figures as JSON where asked for; more: what else belongs to them."""
    if options.json is not None:
        document = {"name": name, "figures": [asdict(figure) for figure in figures], **more}
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


def read(file: Path) -> tuple[str, list[Figure]]:
    """A benchmark's name and figures, as `tell` wrote them."""
    document = json.loads(file.read_text(encoding="utf-8"))
    return document["name"], [Figure(**figure) for figure in document["figures"]]


def table(figures: Iterable[Figure], title: str) -> Table:
    found = Table("figure", "value", "aim", "", title=title, title_justify="left")
    for figure in figures:
        found.add_row(*figure.told)
    return found
