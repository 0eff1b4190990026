"""The import contracts of pyproject.toml cover every module: a wrong import anywhere breaks one."""

from __future__ import annotations

import sys
from itertools import groupby
from operator import itemgetter

import pytest

from tests.helpers import import_graph
from tests.helpers.import_graph import (
    ROOT,
    Contracts,
    Import,
    find_cycle,
    product_modules,
    third_party_packages,
    unit_imports,
    unit_of,
    with_imports,
)

GRAPH = import_graph.build()
MODULES = product_modules(GRAPH)

# `python -m enrichment` runs the command line: one layer, in which the first imports the second.
MAIN = {"enrichment.__main__", "enrichment.cli"}

# package → the only folders or modules that may import it
RESTRICTED = {
    "sqlalchemy": ("enrichment.warehouse",),
    "psycopg2": ("enrichment.warehouse",),
    "alembic": ("enrichment.warehouse",),
    "pgpq": ("enrichment.warehouse",),
    "requests": (),
    "urllib3": ("enrichment.vendors.transport",),
    "distributed": ("enrichment.engine.dask_client", "enrichment.engine.dask_worker"),
    "dask": ("enrichment.engine.dask_client", "enrichment.engine.dask_worker"),
}


@pytest.fixture(scope="module")
def contracts() -> Contracts:
    return Contracts()


def test_no_import_goes_upward(contracts: Contracts) -> None:
    assert contracts.rejected_by_layers(GRAPH) == set()
    assert contracts.rejected_by_forbidden(GRAPH) == set()


def test_no_units_import_each_other_in_a_cycle() -> None:
    assert find_cycle(unit_imports(GRAPH)) == []


def test_a_cycle_would_be_found() -> None:
    assert set(find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_every_file_is_a_module_of_the_graph() -> None:
    files = [file for name in import_graph.PACKAGES for file in (ROOT / name).rglob("*.py")]
    paths = [file.relative_to(ROOT).with_suffix("") for file in files]
    names = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    # Alembic runs these by path; they are no modules, and nothing can import them.
    assert {n for n in names if not n.startswith("enrichment.warehouse.migrations.")} == {*MODULES}


def test_the_layers_contract_covers_every_module(contracts: Contracts) -> None:
    outside = {module for module in MODULES if contracts.layer_of(unit_of(module)) is None}
    assert outside == {"enrichment"}  # the package itself: its version, no import


def test_an_import_from_the_own_or_a_higher_layer_is_rejected(contracts: Contracts) -> None:
    imports = [(m, unit) for m in MODULES for unit in not_below(m, contracts)]
    assert accepted(imports, contracts) == []


def not_below(module: str, contracts: Contracts) -> list[str]:
    """The other units of the module's own layer and of those above it."""
    layer = contracts.layer_of(unit_of(module))
    layers = contracts.layers if layer is None else contracts.layers[: layer + 1]
    units = {unit for units in layers for unit in units}
    if unit_of(module) in MAIN:
        units -= MAIN
    return sorted(units - {unit_of(module)})


def test_a_restricted_package_is_rejected_in_every_other_module(contracts: Contracts) -> None:
    imports = [
        (module, package)
        for module in MODULES
        for package, folders in RESTRICTED.items()
        if not any(module == name or module.startswith(f"{name}.") for name in folders)
    ]
    assert accepted(imports, contracts) == []


def test_resilience_imports_the_standard_library_only(contracts: Contracts) -> None:
    own = [module for module in MODULES if unit_of(module) == "resilience"]
    packages = third_party_packages(GRAPH)
    assert accepted([(m, package) for m in own for package in packages], contracts) == []
    imported = {name for m in own for name in GRAPH.find_modules_directly_imported_by(m)}
    assert {n for n in imported if unit_of(n) != "resilience"} <= sys.stdlib_module_names


def test_the_sandbox_imports_the_domain_only(contracts: Contracts) -> None:
    units = unit_imports(GRAPH).keys() - {"enrichment.sandbox", "enrichment.domain", "enrichment"}
    own = [module for module in MODULES if unit_of(module) == "enrichment.sandbox"]
    assert accepted([(m, unit) for m in own for unit in units], contracts) == []


def test_screens_and_endpoints_reach_neither_tables_nor_engine(contracts: Contracts) -> None:
    inner = ("enrichment.warehouse.series", "enrichment.warehouse.queue", "enrichment.engine")
    own = [module for module in MODULES if unit_of(module) in ("api", "enrichment.dashboard")]
    assert accepted([(m, name) for m in own for name in inner], contracts) == []


def accepted(imports: list[Import], contracts: Contracts) -> list[Import]:
    """The imports that break no contract, when one module after another has its own of them."""
    remaining: list[Import] = []
    for _, group in groupby(imports, key=itemgetter(0)):
        own = list(group)
        graph = with_imports(GRAPH, own)
        for check in (contracts.rejected_by_layers, contracts.rejected_by_forbidden):
            if own:
                rejected = check(graph)
                own = [one for one in own if one not in rejected]
        remaining += own
    return remaining
