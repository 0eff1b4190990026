"""The examples in docstrings run, and every public module has one."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import enrichment.domain
import enrichment.pipeline
import enrichment.vendors
import resilience

PACKAGES = (enrichment.domain, enrichment.pipeline, enrichment.vendors, resilience)


def _public_modules(package: ModuleType) -> list[str]:
    names = [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [package.__name__, *(n for n in names if not n.rpartition(".")[2].startswith("_"))]


def _is_only_a_docstring(module: ModuleType) -> bool:
    return len(ast.parse(inspect.getsource(module)).body) <= 1


@pytest.mark.parametrize("name", [name for p in PACKAGES for name in _public_modules(p)])
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted > 0 or _is_only_a_docstring(module), f"{name} has no example"
