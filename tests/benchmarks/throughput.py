"""End to end: the vendor's answers over HTTP → parsed → validated → all features → scored → stored.

    python -m tests.benchmarks.throughput [--symbols 50] [--timeframe 5m] [--threads 5] [--rounds 3]

Against two peers in the same run: bare binary COPY of the very same finished rows into the same
keyed table, and a plain script that does the same with requests, pandas and `to_sql`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import requests
from sqlalchemy import text

from enrichment.domain.bars import Bars
from enrichment.domain.model import Timeframe
from tests.benchmarks.features import with_pandas
from tests.benchmarks.installation import Installation, Run, installation
from tests.benchmarks.report import Figure, parser, tell

_RANGES = {"5m": "5/minute", "15m": "15/minute", "1h": "1/hour", "1d": "1/day"}


def bare_copy(built: Installation, symbols: list[str]) -> float:
    """Rows a second, for the rows that the job has stored: a transaction a symbol, as it does."""
    driver: Any
    stored: list[BytesIO] = []
    with built.db.begin() as conn:
        driver = conn.connection.driver_connection
        for symbol in symbols:
            out = BytesIO()
            with driver.cursor() as cursor:
                query = cursor.mogrify("SELECT * FROM bars WHERE symbol = %s", [symbol]).decode()
                cursor.copy_expert(f"COPY ({query}) TO STDOUT BINARY", out)
            stored.append(out)
        count = conn.execute(text("SELECT count(*) FROM bars")).scalar_one()
    with built.db.begin() as conn:
        conn.execute(text("TRUNCATE bars"))
    began = time.perf_counter()
    for rows in stored:
        rows.seek(0)
        with built.db.begin() as conn:
            driver = conn.connection.driver_connection
            with driver.cursor() as cursor:
                cursor.copy_expert("COPY bars FROM STDIN BINARY", rows, 1 << 18)
    return float(count / (time.perf_counter() - began))


def plain_script(built: Installation, symbols: list[str], timeframe: str) -> float:
    """Bars a second of what one would write in an afternoon, into the same keyed table."""
    bars = 0
    began = time.perf_counter()
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer sandbox"
        for symbol in symbols:
            frame = _downloaded(session, built.vendor, symbol, timeframe)
            bars += _stored(built, frame, symbol, timeframe)
    return bars / (time.perf_counter() - began)


def _downloaded(
    session: requests.Session, vendor: str, symbol: str, timeframe: str
) -> pd.DataFrame:
    now = datetime.now(UTC)
    first, last = (int(at.timestamp() * 1000) for at in (now - timedelta(days=365), now))
    url = f"{vendor}/v2/aggs/ticker/{symbol}/range/{_RANGES[timeframe]}/{first}/{last}"
    body = session.get(url, params={"limit": 50_000}).json()
    rows = list(body["results"])
    while "next_url" in body:
        body = session.get(body["next_url"]).json()
        rows += body.get("results", [])
    names = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "vw": "vwap"}
    frame = pd.DataFrame(rows).rename(columns={**names, "n": "trades"})
    frame["ts"] = pd.to_datetime(frame.pop("t"), unit="ms", utc=True)
    return frame


def _stored(built: Installation, frame: pd.DataFrame, symbol: str, timeframe: str) -> int:
    sound = (frame["low"] <= frame[["open", "close", "high"]].min(axis=1)) & (frame["low"] > 0)
    sound &= (frame["high"] >= frame[["open", "close"]].max(axis=1)) & (frame["volume"] >= 0)
    frame = frame[sound].drop_duplicates("ts").sort_values("ts", ignore_index=True)
    prices = (frame[name].to_numpy(float) for name in ("open", "high", "low", "close", "volume"))
    bars = Bars.of(frame["ts"].dt.tz_localize(None).to_numpy("datetime64[us]"), *prices)
    for name, compute in with_pandas(bars).items():
        frame[name] = compute()
    frame = frame.replace([np.inf, -np.inf], np.nan)
    frame.insert(0, "symbol", symbol)
    frame.insert(1, "timeframe", timeframe)
    with built.db.begin() as conn:
        frame.to_sql("bars", conn, if_exists="append", index=False)
    return len(frame)


def forget(built: Installation) -> None:
    """As on the first day."""
    with built.db.begin() as conn:
        conn.execute(text("TRUNCATE bars, enrichment_status, bar_flags, bar_gaps"))


def stages(run: Run) -> Iterator[Figure]:
    for part, seconds in run.cpu_seconds.items():
        spent = 1e6 * seconds / run.progress.inserted
        yield Figure(f"processor time a bar, {part}", spent, "µs")


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--symbols", type=int, default=50)
    parsing.add_argument("--timeframe", choices=_RANGES, default="5m")
    parsing.add_argument("--threads", type=int, default=5)
    parsing.add_argument("--rounds", type=int, default=3)
    options = parsing.parse_args()
    symbols = [f"SIM{n}" for n in range(options.symbols)]
    runs, copies, scripts = [], [], []
    with installation(options.threads) as built:
        built.track(symbols, str(Timeframe(options.timeframe)))
        for _ in range(options.rounds):
            forget(built)
            runs.append(built.run())
            copies.append(bare_copy(built, symbols))
            forget(built)
            scripts.append(plain_script(built, symbols[:2], options.timeframe))
    speed = [run.bars_per_second for run in runs]
    to_copy = statistics.median(s / c for s, c in zip(speed, copies, strict=True))
    to_script = statistics.median(s / p for s, p in zip(speed, scripts, strict=True))
    found = [
        Figure("end to end", statistics.median(speed), "bars/s"),
        Figure("bare binary COPY of the same rows", statistics.median(copies), "rows/s"),
        Figure("requests + pandas + to_sql", statistics.median(scripts), "bars/s"),
        Figure("against bare COPY", to_copy, "×", "≥", 0.3),
        Figure("against the plain script", to_script, "×", "≥", 8),
        Figure("worker's memory, highest", max(run.peak_mb for run in runs), "MB", "≤", 400),
        *stages(runs[-1]),
    ]
    tell("throughput", found, options)


if __name__ == "__main__":
    main()
