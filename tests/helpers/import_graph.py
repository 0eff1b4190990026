"""The product's import graph, its units and the contracts that pyproject.toml sets for it.

A unit is what a reader meets as one thing: a package or a flat module directly in `enrichment`, or
the whole of `api` and of `resilience`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import grimp
from grimp import ImportGraph
from importlinter.api import read_configuration
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import LayersContract

ROOT = Path(__file__).parents[2]
PACKAGES = ("enrichment", "api", "resilience")
Import = tuple[str, str]  # importing module, imported module


@cache
def build() -> ImportGraph:
    """Every module of the product, and the packages outside it that they import."""
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def with_imports(graph: ImportGraph, imports: Iterable[Import]) -> ImportGraph:
    """A copy of the graph that has these imports, too."""
    changed = deepcopy(graph)
    for importer, imported in imports:
        if imported not in changed.modules:
            changed.add_module(imported, is_squashed=True)
        changed.add_import(importer=importer, imported=imported)
    return changed


def product_modules(graph: ImportGraph) -> list[str]:
    return sorted(name for name in graph.modules if name.partition(".")[0] in PACKAGES)


def third_party_packages(graph: ImportGraph) -> set[str]:
    """What the product imports that is neither its own nor the standard library's."""
    outside = {name for name in graph.modules if "." not in name} - {*PACKAGES}
    return outside - sys.stdlib_module_names - {"_typeshed"}  # which exists for type checkers only


def unit_of(module: str) -> str:
    package, *rest = module.split(".")
    return f"{package}.{rest[0]}" if package == "enrichment" and rest else package


def unit_imports(graph: ImportGraph) -> dict[str, set[str]]:
    """Unit → the other units that it imports; `enrichment/__init__.py` belongs to none."""
    modules = [module for module in product_modules(graph) if module != "enrichment"]
    imports: dict[str, set[str]] = {unit_of(module): set() for module in modules}
    for module in modules:
        imported = graph.find_modules_directly_imported_by(module).intersection(modules)
        imports[unit_of(module)] |= {unit_of(name) for name in imported} - {unit_of(module)}
    return imports


def find_cycle(imports: dict[str, set[str]]) -> list[str]:
    """The units of one import cycle, or nothing where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


class Contracts:
    """The contracts of pyproject.toml, as import-linter reads them."""

    def __init__(self) -> None:
        configuration = read_configuration(str(ROOT / "pyproject.toml"))
        session = configuration["session_options"]
        every = configuration["contracts_options"]
        (layers,) = (options for options in every if options["type"] == "layers")
        self._layers = LayersContract(layers["name"], session, layers)
        self._forbidden = [
            ForbiddenContract(options["name"], session, options)
            for options in every
            if options["type"] == "forbidden"
        ]
        declared: Any = self._layers.layers
        self.layers: list[set[str]] = [{tail.name for tail in one.module_tails} for one in declared]

    def layer_of(self, unit: str) -> int | None:
        """The unit's place in `layers`, the highest first; None if the contract omits it."""
        return next((n for n, units in enumerate(self.layers) if unit in units), None)

    def rejected_by_layers(self, graph: ImportGraph) -> set[Import]:
        """Direct imports for which the layers contract is broken."""
        check = self._layers.check(deepcopy(graph), verbose=False)
        chains = [
            route["chain"]
            for dependency in check.metadata["invalid_dependencies"]
            for route in dependency["routes"]
        ]
        return {(c[0]["importer"], c[0]["imported"]) for c in chains if len(c) == 1}

    def rejected_by_forbidden(self, graph: ImportGraph) -> set[Import]:
        """Direct imports for which a contract of the type `forbidden` is broken."""
        checks = [one.check(deepcopy(graph), verbose=False) for one in self._forbidden]
        return {
            (link["importer"], link["imported"])
            for check in checks
            for found in check.metadata["invalid_chains"]
            for chain in found["chains"]
            for link in chain
        }
