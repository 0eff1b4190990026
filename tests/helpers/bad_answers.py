"""The sandbox behind a gateway that spoils its answers, in whatever vendor's format they are.

The gateway knows no format: it looks for rows with a time, for numbers beside the time and for
links to a next page wherever they are in the JSON.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson
from werkzeug.test import Client
from werkzeug.wrappers import Response

from enrichment.sandbox import create_app, running

_SECONDS, _MILLISECONDS = (
    range(946_684_800, 4_102_444_800),
    range(946_684_800_000, 4_102_444_800_000),
)
_DATE = re.compile(r"20\d\d-\d\d-\d\dT")
_NEXT = ("next_url", "next_page_token", "next", "cursor")


@dataclass
class Answer:
    """An answer on its way to the client."""

    number: int
    """1 for the first answer since the gateway was told what to do."""
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


Spoil = Callable[[Answer], None]


class Gateway:
    """A WSGI app in front of the sandbox.

    Attributes:
        spoil: Changes each answer; None: nothing.
        reroute: Changes the address of each request.
        addresses: Of the requests since `reset`.
    """

    def __init__(self, now: datetime) -> None:
        self.app = create_app(clock=lambda: now)
        self._sandbox = Client(self.app.wsgi_app)
        self.app.wsgi_app = self  # type: ignore[method-assign]  # as Flask's manual says
        self.reset()

    def reset(
        self, spoil: Spoil | None = None, reroute: Callable[[str], str] = lambda address: address
    ) -> None:
        self.spoil, self.reroute = spoil, reroute
        self.addresses: list[str] = []

    def __call__(self, environ: Any, start_response: Any) -> Any:
        query = environ.get("QUERY_STRING", "")
        address = environ["PATH_INFO"] + (f"?{query}" if query else "")
        self.addresses.append(address)
        headers = {
            name[5:].replace("_", "-").title(): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        response = self._sandbox.get(self.reroute(address), headers=headers)
        answer = Answer(len(self.addresses), response.data, response.status_code)
        if self.spoil is not None:
            self.spoil(answer)
        return Response(answer.body, answer.status, answer.headers)(environ, start_response)


@contextmanager
def gateway(now: datetime) -> Iterator[tuple[Gateway, str]]:
    """A gateway and its address."""
    built = Gateway(now)
    with running(built.app) as url:
        yield built, url


class NotApplicable(Exception):
    """The vendor's format has nothing that could be spoiled like that."""


def rows_of(body: Any) -> list[Any]:
    """The lists that hold one entry for each bar: one list of rows, or several columns."""
    found = list(_rows(body))
    if not found:
        raise NotApplicable("no rows")
    return found


def _rows(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, list) and len(value) > 1:
        is_column = not isinstance(value[0], dict | list)
        if is_column or all(map(_is_row, value)):
            yield value
            return
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _rows(inner)


def _is_row(value: Any) -> bool:
    entries = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and any(map(is_time, entries))


def is_time(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_DATE.match(value))
    return type(value) is int and (value in _SECONDS or value in _MILLISECONDS)


def is_price(value: Any) -> bool:
    """Whether it is a number that is no time, or one in quotes, with decimals."""
    if isinstance(value, float):
        return value != round(value)
    return isinstance(value, str) and re.fullmatch(r"\d+\.\d+", value) is not None


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The JSON with every leaf changed."""
    if isinstance(value, dict):
        return {key: mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [mapped(inner, change) for inner in value]
    return change(value)


def each_row(change: Callable[[list[Any]], list[Any]]) -> Spoil:
    """Changes the order or number of rows; of columns, all in the same way."""

    def spoil(answer: Answer) -> None:
        body = orjson.loads(answer.body)
        for rows in rows_of(body):
            rows[:] = change(rows)
        answer.body = orjson.dumps(body)

    return spoil


def each_time(change: Callable[[int], int]) -> Spoil:
    def spoil(answer: Answer) -> None:
        body = orjson.loads(answer.body)
        if not any(type(leaf) is int and is_time(leaf) for leaf in _leaves(rows_of(body))):
            raise NotApplicable("times are text")
        answer.body = orjson.dumps(
            mapped(body, lambda leaf: change(leaf) if type(leaf) is int and is_time(leaf) else leaf)
        )

    return spoil


def some_price(literal: str, at: Callable[[int], bool] = lambda number: number == 40) -> Spoil:
    """Replaces prices by a literal, which need not be JSON; text stays text."""

    def spoil(answer: Answer) -> None:
        body, count = orjson.loads(answer.body), 0

        def change(leaf: Any) -> Any:
            nonlocal count
            if not is_price(leaf):
                return leaf
            count += 1
            if not at(count):
                return leaf
            return "literal in text" if isinstance(leaf, str) else "literal"

        spoiled = orjson.dumps(mapped(body, change))
        spoiled = spoiled.replace(b'"literal in text"', f'"{literal}"'.encode())
        answer.body = spoiled.replace(b'"literal"', literal.encode())

    return spoil


def swapped_types(answer: Answer) -> None:
    """Numbers as text, and text as numbers."""

    def change(leaf: Any) -> Any:
        if not is_price(leaf):
            return leaf
        return str(leaf) if isinstance(leaf, float) else float(leaf)

    answer.body = orjson.dumps(mapped(orjson.loads(answer.body), change))


class Endless:
    """Every page links to a next one: the second page again, by the same link or always another."""

    def __init__(self, *, fresh: bool) -> None:
        self._fresh, self._key, self._link = fresh, "", ""

    def __call__(self, answer: Answer) -> None:
        body = orjson.loads(answer.body)
        if answer.number == 1:
            self._key = next((n for n in _NEXT if isinstance(body, dict) and body.get(n)), "")
            if not self._key:
                raise NotApplicable("no page links to a next one")
            self._link = body[self._key]
        body[self._key] = f"{self._link}again{answer.number if self._fresh else 1}"
        answer.body = orjson.dumps(body)

    def reroute(self, address: str) -> str:
        return re.sub(r"again\d+", "", address)


def from_page(number: int, spoil: Spoil, *, only: bool = False) -> Spoil:
    """The same from this page on, or on this page only."""

    def later(answer: Answer) -> None:
        if answer.number == number or (answer.number > number and not only):
            spoil(answer)

    return later


def status(code: int, body: bytes = b'{"status": "NOT_AUTHORIZED", "message": "no"}') -> Spoil:
    def spoil(answer: Answer) -> None:
        answer.status, answer.body = code, body

    return spoil


def no_rows(answer: Answer) -> None:
    body = orjson.loads(answer.body)
    for rows in rows_of(body):
        rows.clear()
    answer.body = orjson.dumps(body)


@lru_cache
def _bomb() -> bytes:
    return gzip.compress(b" " * 100_000_000, compresslevel=1)


def gzip_bomb(answer: Answer) -> None:
    answer.body = _bomb()
    answer.headers["Content-Encoding"] = "gzip"


def content(body: Callable[[bytes], bytes], kind: str = "application/json") -> Spoil:
    def spoil(answer: Answer) -> None:
        answer.body, answer.headers["Content-Type"] = body(answer.body), kind

    return spoil


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value
