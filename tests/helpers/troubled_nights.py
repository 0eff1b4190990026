"""A demo's database after two nights with many vendor faults, as input for the notebooks.

On the first night the sandbox omits bars, sends invalid ones and one outlier. On the second it
restates stored bars and fails for a while. Afterwards it serves some of the omitted bars, and one
old price differs from the stored one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import SecretStr

from enrichment.cli.up import SAMPLE_SYMBOLS
from enrichment.config import Settings
from enrichment.domain.bars import to_datetime
from enrichment.domain.model import Timeframe, Window
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.worker import WorkerTiming
from enrichment.sandbox import Fault, create_app, running
from enrichment.sandbox.faults import FaultRegistry
from enrichment.services.commands import Commands
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database
from enrichment.wiring.database import build_read_models
from enrichment.wiring.worker import build_scheduler, open_worker_process
from tests.helpers.waiting import in_thread

# A breaker that recovers within a second, and no retry of a request within its item.
PROTECTION = VendorProtection(
    max_retries=0, recovery_timeout=0.7, connect_timeout=2.0, read_timeout=5.0
)
TIMING = WorkerTiming(poll=0.05, heartbeat=0.2)


@dataclass(frozen=True)
class DemoNights:
    """A database, the settings of its workers, and the faults of their vendor."""

    db: Database
    settings: Settings
    faults: FaultRegistry
    days: list[datetime]  # starts of AAPL's sessions at the vendor, ascending

    @property
    def environment(self) -> dict[str, str]:
        """The settings, for another process."""
        url = self.settings.database_url
        return {
            "DATABASE_URL": "" if url is None else url.get_secret_value(),
            "ENRICHMENT_SANDBOX_PORT": str(self.settings.enrichment_sandbox_port),
            "POLYGON_API_KEY": "",
        }

    def track(self, *samples: tuple[str, str, str]) -> None:
        Commands(self.db).track([parse_tracked(*sample) for sample in samples], actor="demo")

    def run(self, *faults: Fault) -> None:
        """Run one job over all symbols on two new workers to its end, then tick the scheduler."""
        self.faults.clear()
        self.faults.add(faults)
        job = Commands(self.db).trigger(actor="demo")
        reader = build_read_models(self.db, self.settings)
        waiting = threading.Event()
        with _working(self.settings), _working(self.settings):
            for _ in range(1200):
                progress = reader.progress(job.job_id)
                if progress is not None and progress.finished:
                    break
                waiting.wait(0.05)
            else:
                raise AssertionError(f"the job did not finish: {progress}")
        build_scheduler(self.settings, self.db).tick()


@contextmanager
def troubled_nights(db: Database, url: str) -> Iterator[dict[str, str]]:
    """Run both nights. Yields the settings as environment; the vendor runs until the end."""
    with _vendor(db, url) as night:
        days = night.days
        losses, restated = _losses(days), _restatements(days)
        night.track(*SAMPLE_SYMBOLS)
        night.run(*losses, *_nonsense(days), _restated("AAPL", days[-30], 1.35))
        night.track(("NOSUCH", "stock", "1d"))
        night.run(*losses, *_nonsense(days), *restated, *_breakdown())
        night.faults.clear()
        night.faults.add([losses[0], *restated, _restated("AAPL", days[-75], 1.03)])
        yield night.environment


@contextmanager
def quiet_night(db: Database, url: str) -> Iterator[dict[str, str]]:
    """Run one night of one symbol without a fault."""
    with _vendor(db, url) as night:
        night.track(("AAPL", "stock", "1d"))
        night.run()
        yield night.environment


@contextmanager
def _vendor(db: Database, url: str) -> Iterator[DemoNights]:
    app = create_app()
    vendor = app.extensions["sandbox"]
    now = datetime.now(UTC)
    history = Window(datetime(2000, 1, 1, tzinfo=UTC), now)
    sessions = vendor.market.series("AAPL").bars(Timeframe.D1, history, now).ts
    with running(app) as address:
        settings = Settings(
            database_url=SecretStr(url),
            enrichment_sandbox_port=urlsplit(address).port or 0,
            polygon_api_key=None,
            max_concurrent_symbols=2,
            enable_daily_enrichment=False,
            enrichment_sandbox=True,
            # With a second vendor's bars, the day that all symbols miss would not be an outage.
            providers_stock=("polygon",),
            providers_etf=("polygon",),
            providers_crypto=("polygon",),
        )
        yield DemoNights(db, settings, vendor.faults, [to_datetime(ts) for ts in sessions])


def _losses(days: list[datetime]) -> list[Fault]:
    return [
        Fault("*", "missing", bars=(days[-60],)),
        Fault("AAPL", "missing", bars=(days[-41], days[-90])),
        Fault("FB", "missing", bars=(*days[-150:-30:11], *days[-2:])),
        Fault("GOOG", "missing", bars=tuple(days[-100:-96])),
    ]


def _nonsense(days: list[datetime]) -> list[Fault]:
    return [
        Fault("MSFT", "corrupt", bars=tuple(days[-20:-14]), mode="inverted"),
        Fault("IBM", "corrupt", bars=(days[-33], days[-52]), mode="negative_volume"),
        Fault("X:SIM2USD", "corrupt", n=3, mode="zero_price"),
    ]


def _restatements(days: list[datetime]) -> list[Fault]:
    return [_restated("AAPL", days[-5], 1.02), _restated("AAPL", days[-3], 0.985)]


def _breakdown() -> list[Fault]:
    return [
        Fault("*", "latency", probability=0.6, seconds=0.15),
        Fault("IBM", "latency", seconds=0.6),
        Fault("MSFT", "truncated", times=1),
        Fault("GOOG", "server_error", times=2, status=503),
        Fault("*", "server_error", times=14, status=500),
        Fault("X:SIM1USD", "rate_limit", times=1, seconds=1.0),
    ]


def _restated(ticker: str, day: datetime, factor: float) -> Fault:
    return Fault(ticker, "restated", bars=(day,), factor=factor)


@contextmanager
def _working(settings: Settings) -> Iterator[None]:
    with (
        open_worker_process(settings, protection=PROTECTION, timing=TIMING) as process,
        in_thread(process),
    ):
        yield
