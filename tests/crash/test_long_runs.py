"""For as long as one likes: random input (--fuzz-minutes), and stops by signal (--stops)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from enrichment.warehouse.database import Database
from tests.helpers.api_client import api_client, track_symbols
from tests.helpers.fuzz_targets import (
    api_target,
    csv_target,
    run_for,
    toml_target,
    vendor_target,
)


@pytest.fixture
def seconds(pytestconfig: pytest.Config) -> float:
    minutes = float(pytestconfig.getoption("fuzz_minutes"))
    if not minutes:
        pytest.skip("only with --fuzz-minutes")
    return 60.0 * minutes


@pytest.fixture
def seed() -> int:
    """Another one each time: a long run that repeats itself finds nothing new."""
    return int(time.time())


def test_vendors(seconds: float, seed: int) -> None:
    with vendor_target() as target:
        run_for(seconds, target, seed)


def test_files_of_symbols(seconds: float, seed: int) -> None:
    run_for(seconds, csv_target, seed)


def test_files_of_rules(seconds: float, seed: int, tmp_path: Path) -> None:
    run_for(seconds, toml_target(tmp_path / "alerts.toml"), seed)


def test_parameters(seconds: float, seed: int, db: Database) -> None:
    track_symbols(db)
    run_for(seconds, api_target(api_client(db)), seed)


def test_stops_by_signal(pytestconfig: pytest.Config) -> None:
    count = int(pytestconfig.getoption("stops"))
    if not count:
        pytest.skip("only with --stops")
    command = [sys.executable, "-m", "tests.helpers.stopped_workers", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
