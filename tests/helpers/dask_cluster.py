"""For tests of a Dask cluster: a vendor that can hold responses, workers and clusters."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from distributed import Client
from flask import request
from pydantic import SecretStr

from enrichment.config import Settings
from enrichment.engine.worker import WorkerTiming
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database
from enrichment.wiring.worker import WorkerProcess, open_worker_process
from tests.helpers.waiting import in_thread

LEASE = 1.0
TIMING = WorkerTiming(poll=0.05, heartbeat=0.1, lease=LEASE, drain=5.0)


@dataclass
class ResponseGate:
    """Counts a vendor's requests by symbol and holds responses on demand."""

    requests: Counter[str] = field(default_factory=Counter)
    _held: defaultdict[str, list[threading.Event]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def hold(self, *symbols: str) -> None:
        """Hold the next response for each symbol until `release`."""
        for symbol in symbols:
            self._held[symbol].append(threading.Event())

    def release(self, *symbols: str) -> None:
        """Send the held responses for these symbols, or for all if none is given."""
        for symbol in symbols or tuple(self._held):
            for event in self._held[symbol]:
                event.set()

    def __call__(self) -> None:
        """Flask's before_request hook."""
        _, ticker, rest = request.path.partition("/ticker/")
        if ticker:
            symbol = rest.partition("/")[0]
            number = self.requests[symbol]
            self.requests[symbol] += 1
            if number < len(self._held[symbol]):
                self._held[symbol][number].wait(60)


@dataclass(frozen=True)
class GatedVendor:
    address: str
    gate: ResponseGate


def settings_of(db: Database, vendor: GatedVendor, executor: str, **options: Any) -> Settings:
    defaults = {
        "enrichment_sandbox": True,
        "enrichment_sandbox_port": urlsplit(vendor.address).port,
        "enable_daily_enrichment": False,
        "history_days": 30,
        "providers_crypto": ("polygon",),
        "max_concurrent_symbols": 6,
    }
    return Settings(
        _env_file=None,
        database_url=SecretStr(db.url.render_as_string(hide_password=False)),
        enrichment_executor=executor,
        **{**defaults, **options},
    )


@contextmanager
def running_worker(
    settings: Settings, *, timing: WorkerTiming = TIMING, protection: VendorProtection | None = None
) -> Iterator[WorkerProcess]:
    with (
        open_worker_process(settings, timing=timing, protection=protection) as process,
        in_thread(process),
    ):
        yield process


def work_until_killed(settings: Settings) -> None:
    """Run a worker; in a process of its own."""
    with open_worker_process(settings, timing=TIMING) as process:
        process.run()


def tasks_by_worker(client: Client) -> dict[str, list[str]]:
    """Dask worker → keys of its running tasks."""
    keys: dict[str, list[str]] = client.run(_active)
    return keys


def _active(dask_worker: Any) -> list[str]:
    return list(dask_worker.active_threads.values())


@contextmanager
def dask_cluster(port: int, **environment: str) -> Iterator[None]:
    """A scheduler on this port with a Dask worker of two threads, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CLUSTER, str(port)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.communicate(timeout=10)


_CLUSTER = """
import sys
from distributed import LocalCluster

options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "protocol": "tcp"}
with LocalCluster(scheduler_port=int(sys.argv[1]), dashboard_address="127.0.0.1:0", **options):
    sys.stdin.read()
"""
