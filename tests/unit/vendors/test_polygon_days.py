"""Answers of whole days: what is read, left out and refused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest

from enrichment.domain.bars import to_datetime64
from enrichment.domain.errors import AccessDenied, MalformedResponse, ProviderError
from enrichment.vendors.polygon_days import PolygonDays
from tests.helpers.fake_transport import FakeTransport, client_over

DAY = date(2026, 3, 4)
CLOSE = 1_772_658_000_000  # 16:00 in New York, in milliseconds
BEFORE_MIDNIGHT = datetime(2026, 3, 5, 1, 30, tzinfo=UTC)
AFTER_MIDNIGHT = datetime(2026, 3, 5, 6, 0, tzinfo=UTC)


def row(ticker: str, **changes: Any) -> dict[str, Any]:
    values = {"T": ticker, "t": CLOSE, "o": 10, "h": 12.5, "l": 9, "c": 11, "v": 1e6}
    return {**values, "vw": 10.5, "n": 321, **changes}


def fetch(rows: list[Any], *, now: datetime = AFTER_MIDNIGHT, **changes: Any) -> Any:
    body = {"status": "OK", "adjusted": False, "resultsCount": len(rows), "results": rows}
    with client_over(FakeTransport({**body, **changes})) as client:
        return PolygonDays(client, now=lambda: now).fetch_day(DAY)


def test_rows_become_bars_of_their_session() -> None:
    day = fetch([row("AAPL"), row("BRK.B", c=9.5, vw=None, n=None), row("BACpL")])
    assert day.symbols == ("AAPL", "BRK.B", "BACpL")
    assert set(day.bars.ts.tolist()) == {to_datetime64(datetime(2026, 3, 4, tzinfo=UTC)).item()}
    assert day.bars.close.tolist() == [11.0, 9.5, 11.0]
    assert day.bars.trades[0] == 321
    assert np.isnan([day.bars.vwap[1], day.bars.trades[1]]).all()


@pytest.mark.parametrize(
    "bad",
    [
        row("XYZ", h=9.5),  # below the close
        row("XYZ", l=11.5),  # above it
        row("XYZ", c=0),
        row("XYZ", o=-1),
        row("XYZ", v=-1),
        row("XYZ", v=None),
        row("XYZ", c="11"),
        row("XYZ", c=True),
        row("XYZ", h=1e60),
        row("XYZ", vw="10"),
        row("XYZ", t=None),
        row("not a ticker"),
        row(""),
        {**row("XYZ"), "T": 7},
        "XYZ",
        None,
        {"T": "XYZ", "t": CLOSE},
    ],
)
def test_a_row_that_no_bar_can_be_is_left_out(bad: Any) -> None:
    assert fetch([row("AAPL"), bad, row("MSFT")]).symbols == ("AAPL", "MSFT")


def test_of_a_ticker_with_several_rows_none_is_believed() -> None:
    assert fetch([row("AAPL"), row("MSFT"), row("AAPL", c=10)]).symbols == ("MSFT",)


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        ([row("AAPL", t=CLOSE - 86_400_000)], {}),  # of the day before
        ([row("AAPL"), row("MSFT", t=CLOSE // 1000)], {}),  # seconds
        ([row("AAPL"), row("MSFT", t=10**18)], {}),  # no time there is
        ([row("AAPL")], {"adjusted": True}),
        ([row("AAPL")], {"adjusted": None}),
        ([row("AAPL")], {"resultsCount": 9_000}),  # cut
        ([row("AAPL")], {"results": {"AAPL": row("AAPL")}}),
        ([row("AAPL")], {"status": "GREAT"}),
    ],
)
def test_an_answer_that_is_not_the_day_is_refused(rows: list[Any], changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedResponse, match="all stocks of 2026-03-04"):
        fetch(rows, **changes)


def test_an_error_of_the_vendor_is_one() -> None:
    with pytest.raises(ProviderError, match="reports an error"):
        fetch([], status="ERROR")


def test_a_day_that_is_withheld_until_midnight_is_empty() -> None:
    refusal = {"status": "NOT_AUTHORIZED", "results": None, "resultsCount": 0}
    assert fetch([], now=BEFORE_MIDNIGHT, **refusal).symbols == ()
    with pytest.raises(AccessDenied):
        fetch([], now=AFTER_MIDNIGHT, **refusal)


def test_a_day_without_trades_is_empty() -> None:
    assert fetch([], status="DELAYED", results=None).symbols == ()
