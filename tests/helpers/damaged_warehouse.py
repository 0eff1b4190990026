"""A warehouse that a worker fills from the sandbox, and the damage that older versions left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from enrichment.domain.damage import Finding
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.damage import DamageReports
from tests.helpers.waiting import until
from tests.helpers.worker_in_process import bare_worker

# 120 days before it hold a change of the clock, Thanksgiving's and Christmas' half days.
NOW = datetime(2026, 3, 18, 9, 20, tzinfo=UTC)
SYMBOLS = {
    "AAPL": ("stock", "1d,1w"),
    "SIM7": ("stock", "15m,30m,1h,4h,1d,1w"),
    "X:SIM1USD": ("crypto", "1h,4h,1d,1w"),
}


@dataclass
class Damaged:
    """The warehouse of one test."""

    db: Database
    vendor: str
    now: datetime = NOW
    stocks: tuple[str, ...] = ("polygon",)  # vendors of stocks

    @property
    def commands(self) -> Commands:
        return Commands(self.db)

    def fill(self) -> None:
        """Track the symbols and enrich them."""
        self.commands.track(
            [parse_tracked(s, *settings) for s, settings in SYMBOLS.items()], actor="test"
        )
        self.run(self.commands.trigger(actor="test").job_id)

    def run(self, job: UUID) -> None:
        """Let a worker work until the job has ended."""
        with self.worker():
            until(lambda: self.state(job) not in ("queued", "running"), "the job ends", 60)
        assert self.state(job) == "completed", self.rows(
            "SELECT symbol, last_error FROM enrichment_job_items WHERE job_id = :job", job=job
        )

    @contextmanager
    def worker(self) -> Iterator[None]:
        self.execute("DELETE FROM workers")  # one of the same name
        heart = Database(self.db.url.render_as_string(hide_password=False), pool_size=1)
        with (
            closing(heart),
            bare_worker(
                self.db,
                heart,
                self.vendor,
                self.now,
                threads=2,
                lease=30.0,
                stocks=self.stocks,
            ),
        ):
            yield

    def state(self, job: UUID) -> str:
        ((state,),) = self.rows("SELECT state FROM enrichment_jobs WHERE job_id = :job", job=job)
        return str(state)

    def find(self) -> list[Finding]:
        return DamageReports(self.db).find(now=self.now)

    def found(self) -> dict[tuple[str, str, str], int]:
        """(symbol, timeframe, kind) → count."""
        return {(f.symbol, f.timeframe.value, f.kind.value): f.count for f in self.find()}

    def rows(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        with self.db.begin() as conn:
            return [tuple(row) for row in conn.execute(text(query), values)]

    def execute(self, statement: str, **values: object) -> int:
        with self.db.begin() as conn:
            return conn.execute(text(statement), values).rowcount

    # What older versions stored, as their code wrote it.

    def insert(self, symbol: str, timeframe: str, ts: str, like: str) -> None:
        """A bar with the prices of another one of the series."""
        inserted = self.execute(
            f"INSERT INTO bars (symbol, timeframe, ts, {PRICES}, known_from)"
            f" SELECT symbol, timeframe, CAST(:ts AS timestamptz), {PRICES}, known_from"
            f" FROM bars {OF_SERIES} AND ts = :like",
            symbol=symbol,
            timeframe=timeframe,
            ts=ts,
            like=like,
        )
        assert inserted == 1
        self.recount(symbol, timeframe)

    def update(self, symbol: str, timeframe: str, where: str, values: str) -> None:
        changed = self.execute(
            f"UPDATE bars SET {values} {OF_SERIES} AND {where}", symbol=symbol, timeframe=timeframe
        )
        assert changed

    def delete(self, symbol: str, timeframe: str, where: str) -> None:
        deleted = self.execute(
            f"DELETE FROM bars {OF_SERIES} AND {where}", symbol=symbol, timeframe=timeframe
        )
        assert deleted
        self.recount(symbol, timeframe)

    def recount(self, symbol: str, timeframe: str) -> None:
        self.execute(
            f"UPDATE enrichment_status e SET (bars, first_ts, last_ts) = (SELECT count(*), min(ts),"
            f" max(ts) FROM bars b {OF_SERIES}) {OF_SERIES}",
            symbol=symbol,
            timeframe=timeframe,
        )


PRICES = "open, high, low, close, volume, vwap, trades, taker_buy_volume"
OF_SERIES = "WHERE symbol = :symbol AND timeframe = :timeframe"
