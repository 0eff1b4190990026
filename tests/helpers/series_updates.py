"""Results of runs, ready to be stored, and a look into the tables that they reach."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import text

from enrichment.domain.bars import Bars
from enrichment.domain.model import FetchedBars, Quality, Task, Timeframe, ValidationResult, Window
from enrichment.domain.series import FetchResult, QualityInputs, SeriesUpdate
from enrichment.domain.statuses import SeriesStatus
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue

START = datetime(2026, 1, 5, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(days=400))
QUALITY = Quality(0.97, 0.96, 0.95, 0.94, 0.93, SeriesStatus.HEALTHY, ("something small",))
QUALITY_INPUTS = QualityInputs(30, 0, 30, 600, 0, 0)


def bars(days: int, *, first: int = 0, close: float = 100.0) -> Bars:
    """Daily bars from the day `first` after START on, each a little above the one before."""
    ts = np.datetime64("2026-01-05", "us") + np.arange(first, first + days) * np.timedelta64(1, "D")
    base = close + np.arange(first, first + days, dtype=float)
    return Bars.of(ts, base, base + 1, base - 1, base + 0.5, base * 1000)


def series_update(
    new: Bars, *, validation: ValidationResult | None = None, **changes: object
) -> SeriesUpdate:
    """One fetch that brought these bars, with two features of them."""
    fetched = FetchedBars(new, "sandbox", adjusted=False, requests=3, quota_remaining=70)
    update = SeriesUpdate(
        timeframe=Timeframe.D1,
        fetches=[FetchResult(WINDOW, fetched, 12.0, validation or ValidationResult(new))],
        bars=new,
        features={
            "sma_20": np.where(np.arange(len(new)) < 3, np.nan, new.close),
            "trend_direction": np.array([None, *["up"] * (len(new) - 1)], dtype=object),
        },
        compute_ms=3.0,
        flags=[],
        gaps=[],
        quality=QUALITY,
        quality_inputs=QUALITY_INPUTS,
        history_from=START,
    )
    return replace(update, **changes)  # type: ignore[arg-type]  # fields by name


def claim(db: Database, symbol: str = "AAPL") -> Task:
    """A task of a new job for this symbol."""
    commands = Commands(db)
    commands.track([parse_tracked(symbol, "stock", "1d")], actor="test")
    commands.trigger(actor="test", symbols=[symbol])
    (task,) = JobQueue(db).claim("w", 1)
    return task


def rows(db: Database, query: str) -> list[tuple[object, ...]]:
    with db.begin() as conn:
        return [tuple(row) for row in conn.execute(text(query))]
