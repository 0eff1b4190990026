"""Unscheduled closures of exchanges: the table of operators' statements, and the calendars' copy.

Each process reads the table again once its copy is a minute old. The symbols' own sessions, which
the calendars know, too, are read whenever they are used.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection

from enrichment.domain import calendars
from enrichment.domain.exchanges import EXCHANGES, exchange_of
from enrichment.domain.model import AssetClass, StockSession, Timeframe
from enrichment.domain.statuses import GapCause
from enrichment.warehouse.database import Reader, fetch_all, sql

MAX_AGE_SECONDS = 60.0
PROPOSED_DAYS = 30
_MIN_SYMBOLS = 3
_MIN_SHARE = 0.8
_reading = threading.Lock()
_read_at = float("-inf")


@dataclass(frozen=True, slots=True)
class Closure:
    """A session that an operator declared closed."""

    mic: str
    day: date
    reason: str
    closed_by: str
    closed_at: datetime


@dataclass(frozen=True, slots=True)
class ProposedClosure:
    """A session that most symbols of an exchange miss, whichever vendor was asked."""

    mic: str
    day: date
    missing: int
    """Active symbols with daily bars that miss it."""
    symbols: int
    """All of these."""


class Closures(Reader):
    """Reads the closures."""

    def listed(self) -> list[Closure]:
        """All, the latest first."""
        return self._all(Closure, _LISTED)

    def proposed(self) -> list[ProposedClosure]:
        """Sessions of the last days that look like a closure, the latest first.

        At least 3 symbols and 4 of 5 of the exchange miss the day; a failed request is no evidence.
        """
        with self._db.begin() as conn:
            symbols = conn.execute(sql(_DAILY)).scalars().all()
            gaps = conn.execute(sql(_GAPS), {"days": PROPOSED_DAYS}).all()
        total: dict[str, int] = defaultdict(int)
        missing: dict[tuple[date, str], int] = defaultdict(int)
        for symbol in symbols:
            total[exchange_of(symbol).mic] += 1
        for row in gaps:
            missing[row.day, exchange_of(row.symbol).mic] += 1
        return [
            ProposedClosure(mic, day, count, total[mic])
            for (day, mic), count in sorted(missing.items(), reverse=True)
            if count >= max(_MIN_SYMBOLS, _MIN_SHARE * total[mic])
        ]


def refresh(conn: Connection, *, max_age: float = MAX_AGE_SECONDS) -> None:
    """Bring this process's calendars to the symbols' sessions and, unless that was done lately, to
    the stored closures.
    """
    global _read_at
    rows = conn.execute(sql(_SESSIONS)).all()
    calendars.set_stock_sessions({row.symbol: StockSession(row.session) for row in rows})
    with _reading:
        if time.monotonic() - _read_at < max_age:
            return
        days: dict[str, list[date]] = defaultdict(list)
        for closure in fetch_all(conn, Closure, _LISTED):
            days[closure.mic].append(closure.day)
        calendars.set_closures(days)
        _read_at = time.monotonic()


def close(conn: Connection, *, mic: str, day: date, reason: str, by: str) -> bool:
    """Declare a session closed and resolve its gaps; False if it is already."""
    values = {"mic": mic, "day": day, "reason": reason, "by": by}
    if conn.execute(sql(_CLOSE), values).rowcount == 0:
        return False
    symbols = _symbols(conn, mic)
    conn.execute(sql(_RESOLVE), {"symbols": symbols, **_bounds(mic, day)})
    return True


def reopen(conn: Connection, *, mic: str, day: date) -> bool:
    """Take that back; its gaps are open again. False if the session was not declared closed."""
    if conn.execute(sql(_REOPEN), {"mic": mic, "day": day}).rowcount == 0:
        return False
    conn.execute(sql(_UNRESOLVE), {"symbols": _symbols(conn, mic), **_bounds(mic, day)})
    return True


def _symbols(conn: Connection, mic: str) -> list[str]:
    symbols = conn.execute(sql(_STOCKS)).scalars()
    return [symbol for symbol in symbols if exchange_of(symbol).mic == mic]


def _bounds(mic: str, day: date) -> dict[str, datetime | date]:
    """The day as daily bars are dated, and its beginning and end on the exchange's clock."""
    start, end = calendars.day_bounds(EXCHANGES[mic], day)
    return {"label": day, "start": start, "end": end}


_SESSIONS = "SELECT symbol, session FROM tracked_symbols WHERE session IS NOT NULL"

_LISTED = """
SELECT mic, day, reason, closed_by, closed_at FROM calendar_closures ORDER BY day DESC, mic
"""

_CLOSE = """
INSERT INTO calendar_closures (mic, day, reason, closed_by) VALUES (:mic, :day, :reason, :by)
ON CONFLICT DO NOTHING
"""

_REOPEN = "DELETE FROM calendar_closures WHERE mic = :mic AND day = :day"

_STOCKS = f"SELECT symbol FROM tracked_symbols WHERE asset_class <> '{AssetClass.CRYPTO}'"

_OF_DAY = f"""
symbol = ANY(CAST(:symbols AS text[])) AND CASE timeframe
    WHEN '{Timeframe.W1}' THEN false
    WHEN '{Timeframe.D1}' THEN ts = CAST(:label AS date)::timestamp AT TIME ZONE 'UTC'
    ELSE ts >= :start AND ts < :end END
"""

_RESOLVE = f"""
UPDATE bar_gaps SET resolved_at = now(), resolution = 'closed', next_try_at = 'infinity'
WHERE resolved_at IS NULL AND {_OF_DAY}
"""

_UNRESOLVE = f"""
UPDATE bar_gaps SET resolved_at = NULL, resolution = NULL, next_try_at = now()
WHERE resolution = 'closed' AND {_OF_DAY}
"""

_DAILY = f"{_STOCKS} AND active AND '{Timeframe.D1}' = ANY(timeframes)"

_GAPS = f"""
SELECT g.symbol, (g.ts AT TIME ZONE 'UTC')::date AS day FROM bar_gaps g
JOIN tracked_symbols t USING (symbol)
WHERE t.active AND t.asset_class <> '{AssetClass.CRYPTO}' AND g.timeframe = '{Timeframe.D1}'
    AND g.ts >= now() - make_interval(days => :days)
    AND g.cause NOT IN ('{GapCause.FAILED_REQUEST}', '{GapCause.QUARANTINED}')
    AND (g.resolved_at IS NULL OR g.resolution = '{GapCause.NO_TRADES}')
"""
