"""Run the benchmarks, all or those named, and print one table with the machine they ran on.

    python -m tests.benchmarks.run [--quick] [--json FILE] [NAME …]

Each runs as a process of its own, one after another. --quick: on less data, to see them work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console

from tests.benchmarks.report import Figure, read, table

ROOT = Path(__file__).parents[2]
# name → its arguments for --quick
BENCHMARKS: Mapping[str, Sequence[str]] = {
    "throughput": ("--symbols", "4", "--rounds", "1", "--timeframe", "1h"),
    "stages": ("--symbols", "2", "--rounds", "1"),
    "nightly": ("--symbols", "100", "--nights", "1"),
    "corporate_actions": ("--symbols", "60"),
    "growth": ("--rows", "40000", "80000", "--symbols", "10", "--rounds", "2"),
    "bulk_path": ("--series", "2", "--rounds", "1"),
    "features": ("--bars", "20000", "--rounds", "2"),
    "dispatch": ("--symbols", "50", "100", "--triggers", "3"),
    "resilience_overhead": (),
    "api_reads": ("--rows", "20000", "--symbols", "50", "--seconds", "0.2"),
    "dashboard_pages": ("--rows", "20000", "--symbols", "50"),
    "dashboard_idle": ("--seconds", "2", "--symbols", "10"),
    "dask_executor": (
        *("--symbols", "2", "--timeframe", "1h", "--rounds", "1"),
        *("--waiting", "20", "--latency", "0.05", "--concurrency", "5", "10"),
    ),
    "start_up": ("--rounds", "2"),
    "outage": ("--seconds", "0.2", "--rounds", "1"),
    "structure": (),
    "preview": ("--selections", "4", "--symbols", "8"),
    "forecast": ("--nights", "30", "--late", "6"),
    "detection": ("--series", "20"),
    "quota": ("--symbols", "30", "--first-symbols", "20", "--clicks", "3", "--speed", "30"),
}


def measured(name: str, arguments: Sequence[str]) -> tuple[str, list[Figure]]:
    """The title and figures of one benchmark; SystemExit if it fails."""
    with TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        done = subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments, "--json", str(found)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"{name} failed:\n{done.stdout}{done.stderr}")
        return read(found)


def machine() -> str:
    """The machine in a line."""
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    unknown = set(options.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}")
    console, document = Console(), {"machine": machine(), "benchmarks": {}}
    console.print(document["machine"])
    for name in options.names or BENCHMARKS:
        title, figures = measured(name, BENCHMARKS[name] if options.quick else ())
        console.print(table(figures, title))
        document["benchmarks"][title] = [asdict(figure) for figure in figures]
    if options.json:
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
