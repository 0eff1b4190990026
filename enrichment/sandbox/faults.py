"""Injected faults: what goes wrong, for which ticker, how often.

Kinds of faults and their parameters (with defaults):

latency, hang               the response is delayed by `seconds` (1; 3600)
rate_limit                  429 with Retry-After: `seconds` (1)
server_error                `status` (500) in the vendor's error format
unauthorized, forbidden     401, 403
reset                       the connection is reset without a response
truncated                   the JSON is cut in half
html                        an HTML page with `status` (502)
redirect                    302 to a page that asks for consent
crumb                       Yahoo: 401 unless the request has Yahoo's cookie and crumb
empty                       no bars
missing, duplicate, out_of_order   the given `bars`, or `n` (1) pseudo-random ones
corrupt                     the same bars; `mode`: inverted, null, nan, text, negative_volume or
                            zero_price
restated                    close × `factor` (1.01) of the given `bars`, or of the last `n` (1);
                            every price with `columns` all
rebase                      as after a split: prices before the first of the `bars` (all, if none
                            are given) × `factor`, volumes ÷ `factor`

With `vendor`, a fault is limited to that vendor's responses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from threading import Event, Lock
from typing import Any

from enrichment.domain.errors import InvalidRequest
from enrichment.sandbox.counter_rng import fraction, seed_of

CORRUPT_MODES = ("inverted", "null", "nan", "text", "negative_volume", "zero_price")
_BAR_PARAMETERS = ("bars", "n")
_KINDS: dict[str, tuple[str, ...]] = {
    "latency": ("seconds",),
    "hang": ("seconds",),
    "rate_limit": ("seconds",),
    "server_error": ("status",),
    "unauthorized": (),
    "forbidden": (),
    "reset": (),
    "truncated": (),
    "html": ("status",),
    "redirect": (),
    "crumb": (),
    "empty": (),
    "missing": _BAR_PARAMETERS,
    "duplicate": _BAR_PARAMETERS,
    "out_of_order": _BAR_PARAMETERS,
    "corrupt": (*_BAR_PARAMETERS, "mode"),
    "restated": (*_BAR_PARAMETERS, "factor", "columns"),
    "rebase": ("bars", "factor"),
}
_COMMON_PARAMETERS = ("ticker", "kind", "vendor", "probability", "times")
DELAY_KINDS = ("latency", "hang")
DATA_KINDS = ("missing", "duplicate", "out_of_order", "corrupt", "restated", "rebase")
_DEFAULTS: dict[str, dict[str, Any]] = {
    "hang": {"seconds": 3600.0},
    "html": {"status": 502},
    "rebase": {"factor": 0.5},
}
_COMMAND = re.compile(r"(?P<ticker>\*|(?:[XCxc]:)?[^:]+):(?P<kind>[^:]+)(?::(?P<rest>.*))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. Which parameters it uses depends on its kind."""

    ticker: str
    """'*': all."""
    kind: str
    probability: float = 1.0
    """That it affects a request."""
    times: int | None = None
    """How many requests it affects; None: all."""
    seconds: float = 1.0
    status: int = 500
    n: int = 1
    bars: tuple[datetime, ...] = ()
    factor: float = 1.01
    columns: str = "close"
    mode: str = "inverted"
    vendor: str | None = None
    """None: all."""

    @classmethod
    def of(cls, description: object) -> Fault:
        """The fault that a JSON object describes; InvalidRequest says how to correct a bad one."""
        if not isinstance(description, Mapping):
            raise InvalidRequest(
                'a fault is a JSON object such as {"ticker": "AAPL", "kind": "reset"}'
            )
        kind = description.get("kind")
        if kind not in _KINDS:
            raise InvalidRequest(f"unknown fault kind {kind!r}: choose one of {', '.join(_KINDS)}")
        allowed = (*_COMMON_PARAMETERS, *_KINDS[kind])
        for name in description:
            if name not in allowed:
                raise InvalidRequest(f"{kind} has no parameter {name!r}: use {', '.join(allowed)}")
        values = {name: _parsed(name, value) for name, value in description.items()}
        return cls(**{"ticker": "*", **_DEFAULTS.get(kind, {}), **values})

    def matches(self, ticker: str, vendor: str) -> bool:
        return self.ticker in ("*", ticker) and self.vendor in (None, vendor)

    def describe(self) -> dict[str, Any]:
        """The rule as the JSON object that `of` parses."""
        names = (*_COMMON_PARAMETERS, *_KINDS[self.kind])
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name in names}
        return {name: value for name, value in values.items() if value not in (None, ())}


def parse_fault(text: str) -> Fault:
    """A fault from the command line, TICKER:KIND[:name=value,…]; bars are separated by '|'."""
    match = _COMMAND.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(
            f"malformed fault {text!r}: write TICKER:KIND:name=value,… as in 'AAPL:hang:seconds=5'"
        )
    description = {"ticker": match["ticker"], "kind": match["kind"]}
    for part in filter(None, (match["rest"] or "").split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidRequest(
                f"malformed parameter {part!r} in fault {text!r}: write name=value"
            )
        description[name.strip()] = value.strip()
    return Fault.of(description)


def _parsed(name: str, value: Any) -> Any:
    read, valid, hint = _PARAMETERS[name]
    try:
        parsed = read(value)
    except (TypeError, ValueError, OverflowError):
        parsed = None
    if parsed is None or not valid(parsed):
        raise InvalidRequest(f"fault parameter {name}={value!r} can't be used: give {hint}")
    return parsed


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _moments(value: Any) -> tuple[datetime, ...]:
    texts = value.split("|") if isinstance(value, str) else list(value)
    moments = (datetime.fromisoformat(_text(text)) for text in texts)
    return tuple(m.astimezone(UTC) if m.tzinfo else m.replace(tzinfo=UTC) for m in moments)


_PARAMETERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], bool], str]] = {
    "ticker": (lambda v: _text(v).strip().upper(), bool, "a ticker, or '*' for all"),
    "kind": (_text, bool, "a kind"),
    "probability": (float, lambda p: 0 <= p <= 1, "a number from 0 to 1"),
    "times": (_whole, lambda n: n > 0, "a whole number above 0"),
    "seconds": (float, lambda s: 0 <= s <= 86_400, "seconds from 0 to 86400"),
    "status": (_whole, lambda s: 200 <= s <= 599, "an HTTP status from 200 to 599"),
    "n": (_whole, lambda n: n > 0, "a whole number above 0"),
    "bars": (_moments, bool, "ISO timestamps of bars' starts in UTC"),
    "factor": (float, lambda f: 0 < f < 1e6, "a number above 0"),
    "columns": (_text, lambda c: c in ("close", "all"), "'close' or 'all'"),
    "vendor": (_text, bool, "the name of a vendor"),
    "mode": (_text, lambda m: m in CORRUPT_MODES, f"one of {', '.join(CORRUPT_MODES)}"),
}


class FaultRegistry:
    """The active faults. Seeded: the same requests in the same order get the same faults."""

    def __init__(
        self, faults: Iterable[Fault] = (), seed: int = 0, vendors: Sequence[str] | None = None
    ) -> None:
        """vendors: those that a fault can be limited to; None: any."""
        self._lock, self._seed, self._vendors = Lock(), seed, vendors
        self._rules: list[Fault] = []
        self._matched: list[int] = []
        self._applied: list[int] = []
        self.cancelled = Event()
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """InvalidRequest if one of them names an unknown vendor; then none is added."""
        added = list(faults)
        for fault in added:
            self._check_vendor(fault.vendor)
        with self._lock:
            for fault in added:
                self._rules.append(fault)
                self._matched.append(0)
                self._applied.append(0)

    def _check_vendor(self, name: str | None) -> None:
        if name is not None and self._vendors is not None and name not in self._vendors:
            known = ", ".join(self._vendors)
            raise InvalidRequest(f"unknown vendor {name!r} of a fault: choose from {known}")

    def clear(self) -> None:
        """Remove all faults and end the delays of waiting requests."""
        with self._lock:
            self._rules, self._matched, self._applied = [], [], []
            self.cancelled.set()
            self.cancelled = Event()

    def draw(self, ticker: str, vendor: str) -> tuple[tuple[Fault, ...], Event]:
        """The faults of a request, up to the first that determines the whole response.

        The event is set when delays are to end.
        """
        drawn: list[Fault] = []
        with self._lock:
            for index, fault in enumerate(self._rules):
                if fault.matches(ticker, vendor) and self._applies(index, fault):
                    drawn.append(fault)
                    if fault.kind not in (*DELAY_KINDS, *DATA_KINDS):
                        break
            return tuple(drawn), self.cancelled

    def data_faults(self, ticker: str, vendor: str) -> list[Fault]:
        """The data faults of a ticker within an answer of many; their `times` are not counted."""
        with self._lock:
            rules = list(self._rules)
        return [f for f in rules if f.kind in DATA_KINDS and f.matches(ticker, vendor)]

    def _applies(self, index: int, fault: Fault) -> bool:
        if fault.times is not None and self._applied[index] >= fault.times:
            return False
        count = self._matched[index]
        self._matched[index] += 1
        seed = seed_of(self._seed, index, fault.ticker, fault.kind)
        if fault.probability < 1 and fraction(seed, 0, count) >= fault.probability:
            return False
        self._applied[index] += 1
        return True

    def describe(self) -> list[dict[str, Any]]:
        with self._lock:
            pairs = zip(self._rules, self._applied, strict=True)
            return [{**fault.describe(), "struck": applied} for fault, applied in pairs]
