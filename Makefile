# What is run most often; CONTRIBUTING.md says when. `make` alone lists the targets.

.DEFAULT_GOAL := help
BENCHMARKS ?=

.PHONY: help install demo test unit integration lint format types bench

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install:  ## Install the package with everything for development
	pip install -e '.[dev]'

demo:  ## Start everything on a temporary data folder
	enrichment demo

test:  ## Run all tests, as CI does
	pytest

unit:  ## Run the unit tests, without lint, types and layering
	pytest -q tests/unit --deselect tests/unit/test_style.py::test_clean

integration:  ## Run the tests on a real PostgreSQL
	pytest -q tests/integration

lint:  ## Check style, format and layering
	ruff check .
	ruff format --check .
	lint-imports --no-cache

format:  ## Fix style and format
	ruff check --fix .
	ruff format .

types:  ## Check types
	mypy

bench:  ## Run the benchmarks, e.g. BENCHMARKS='--quick features'
	python -m tests.benchmarks.run $(BENCHMARKS)
