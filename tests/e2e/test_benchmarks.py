"""The benchmarks run from end to end. What they measure is for people to judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENDPOINTS = ("overview", "metrics", "health", "job-status", "history", "/metrics")


def test_reading_two_hundred_thousand_rows(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks.api_reads"),
            *("--rows", "200000", "--symbols", "100", "--seconds", "0.1", "--json", str(found)),
        ],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    timings = json.loads(found.read_text())["timings"]
    assert {timing["rows"] for timing in timings} == {10_000, 200_000}
    for name in ENDPOINTS:
        assert name in done.stdout
        assert all(t["per_second"] > 0 for t in timings if t["endpoint"] == name)


def test_one_command_runs_them_all_and_tells_the_machine(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    some = ("stages", "nightly", "growth")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks.run"),
            *("--quick", "--json", str(found), *some),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(found.read_text())
    assert "cores" in document["machine"]
    assert len(document["benchmarks"]) == len(some)
    for figures in document["benchmarks"].values():
        assert all(figure["value"] is not None for figure in figures)
    refused = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.run", "nonsense"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert "choose from throughput" in refused.stderr
