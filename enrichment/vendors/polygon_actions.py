"""Splits and dividends of the whole market from Polygon's reference data (Massive's are the same).

https://polygon.io/docs/rest/stocks/corporate-actions/splits and …/dividends

>>> row = {"ticker": "NVDA", "execution_date": "2024-06-10", "split_from": 1, "split_to": 10,
...        "adjustment_type": "forward_split", "id": "E1"}
>>> action = split(row, "polygon")
>>> (action.symbol, action.ratio) if action else None
('NVDA', 10.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from enrichment.domain.corporate_actions import ActionKind, CorporateAction
from enrichment.domain.errors import MalformedResponse, UnknownSymbol
from enrichment.vendors.base import naming
from enrichment.vendors.http import HttpClient
from enrichment.vendors.spelling import symbol_at, vendor_spelling

_LIMIT = 5_000
_MAX_PAGES = 2_000
_MAX_ROWS = 200_000  # twice those of the whole market in a year
_MAX_CHARS = 100  # of a text
_TICKERS = 100  # asked for by name in one request
_SPECIAL = ("special", "supplemental", "irregular")

Parse = Callable[[Mapping[str, Any], str], CorporateAction | None]


class PolygonActions:
    """Corporate actions of the market or of some symbols, two requests and more.

    Args:
        client: Sends the requests.
        source: Recorded with the actions.
    """

    name = "polygon"

    def __init__(self, client: HttpClient, source: str = "polygon") -> None:
        self._client, self.source = client, source

    def fetch_actions(
        self, since: date, symbols: Sequence[str] | None = None
    ) -> list[CorporateAction]:
        """Actions that took effect at `since` or later, announced ones included.

        Args:
            since: Earliest effective date.
            symbols: None for all that the vendor lists. Those it does not serve are left out.

        Raises:
            ProviderError: The answer could not be used.
            Snooze: The vendor is not to be asked before some time has passed.
        """
        if symbols is None:
            return self._actions(since, {})
        tickers = [spelling for symbol in symbols if (spelling := _spelling(symbol))]
        actions: list[CorporateAction] = []
        for start in range(0, len(tickers), _TICKERS):
            named = ",".join(tickers[start : start + _TICKERS])
            actions += self._actions(since, {"ticker.any_of": named})
        return actions

    def _actions(self, since: date, filters: Mapping[str, str]) -> list[CorporateAction]:
        parsed = (
            kind(row, self.source)
            for kind, path, field in _KINDS
            for row in self._rows(path, field, since, filters)
        )
        return [action for action in parsed if action is not None]

    def _rows(
        self, path: str, field: str, since: date, filters: Mapping[str, str]
    ) -> Iterator[Mapping[str, Any]]:
        params: dict[str, str | int] = {f"{field}.gte": since.isoformat(), **filters}
        params |= {"sort": f"{field}.asc", "limit": _LIMIT}
        seen: set[str] = set()
        count = 0
        with naming(self.name, path):
            body = self._client.get_json(path, params).body
            while True:
                rows = _results(body)
                count += len(rows)
                if count > _MAX_ROWS:
                    raise MalformedResponse(f"more than {_MAX_ROWS:,} rows since {since}")
                yield from rows
                url = body.get("next_url")
                if not url:
                    return
                if not isinstance(url, str) or url in seen or len(seen) >= _MAX_PAGES:
                    raise MalformedResponse("'next_url' does not end")
                seen.add(url)
                body = self._client.get_json(url).body


def split(row: Mapping[str, Any], source: str) -> CorporateAction | None:
    """The split of a row; None if it names no ticker, or one that no symbol is spelt like."""
    symbol, day = _symbol(row), _day(row.get("execution_date"))
    if symbol is None or day is None:
        return None
    new, old = _number(row.get("split_to")), _number(row.get("split_from"))
    by_dividend = row.get("adjustment_type") == "stock_dividend"
    return CorporateAction(
        symbol,
        ActionKind.STOCK_DIVIDEND if by_dividend else ActionKind.SPLIT,
        day,
        source,
        ratio=new / old if new is not None and old else None,
        vendor_id=_text(row.get("id")),
    )


def dividend(row: Mapping[str, Any], source: str) -> CorporateAction | None:
    """The dividend of a row; None as for `split`."""
    symbol, day = _symbol(row), _day(row.get("ex_dividend_date"))
    if symbol is None or day is None:
        return None
    special = row.get("distribution_type") in _SPECIAL
    return CorporateAction(
        symbol,
        ActionKind.SPECIAL_DIVIDEND if special else ActionKind.CASH_DIVIDEND,
        day,
        source,
        amount=_number(row.get("cash_amount")),
        currency=_text(row.get("currency")),
        declared_date=_day(row.get("declaration_date")),
        record_date=_day(row.get("record_date")),
        pay_date=_day(row.get("pay_date")),
        vendor_id=_text(row.get("id")),
    )


_KINDS: tuple[tuple[Parse, str, str], ...] = (
    (split, "/stocks/v1/splits", "execution_date"),
    (dividend, "/stocks/v1/dividends", "ex_dividend_date"),
)


def _results(body: Any) -> list[Mapping[str, Any]]:
    if not isinstance(body, dict) or body.get("status") not in ("OK", "DELAYED"):
        raise MalformedResponse("'status' is neither OK nor DELAYED")
    rows = body.get("results") or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise MalformedResponse("'results' is not a list of objects")
    return rows


def _spelling(symbol: str) -> str | None:
    try:
        return vendor_spelling("polygon", symbol)
    except UnknownSymbol:
        return None


def _symbol(row: Mapping[str, Any]) -> str | None:
    ticker = row.get("ticker")
    return symbol_at("polygon", ticker) if isinstance(ticker, str) and ticker else None


def _day(value: Any) -> date | None:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_CHARS else None
