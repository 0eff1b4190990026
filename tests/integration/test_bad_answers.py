"""Bad answers of every vendor in the registry: no wrong bar, no lost symbol, a reason that helps.

Each vendor's provider, guard and the pipeline run against the sandbox behind a gateway that spoils
the answers. The bars that are accepted must be those of a run with good answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import numpy as np
import orjson
import pytest
from pydantic import SecretStr

from enrichment.config import Settings
from enrichment.domain.bars import Bars
from enrichment.domain.errors import EnrichmentError, Snooze, StepFailed, UnknownSymbol
from enrichment.domain.model import AssetClass, Task, Timeframe
from enrichment.domain.series import SeriesUpdate
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.vendors.guard import VendorProtection
from enrichment.vendors.registry import VENDORS
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager
from tests.helpers import bad_answers as bad
from tests.helpers.bad_answers import Gateway, NotApplicable, Spoil, gateway
from tests.helpers.fakes import EmptyStore
from tests.helpers.virtual_time import VirtualTime

NOW = datetime(2024, 12, 26, 12, tzinfo=UTC)
HISTORY_DAYS = 250
ONE_PAGE, BUILT, MANY_PAGES = Timeframe.D1, Timeframe.H1, Timeframe.M15
REMEDY = re.compile(r"ask again|asks again|check|set |put |remove|wait|reach|upgrade", re.I)
NOISE = 2e-6  # of prices sent as float32


@dataclass
class Vendor:
    """One vendor of the registry behind the gateway."""

    name: str
    gateway: Gateway
    url: str
    good: dict[Timeframe, Bars] = field(default_factory=dict)

    @property
    def request(self) -> tuple[str, AssetClass]:
        stocks = AssetClass.STOCK in VENDORS[self.name].coverage
        return ("SIM1", AssetClass.STOCK) if stocks else ("X:SIM1USD", AssetClass.CRYPTO)

    def run(self, timeframe: Timeframe) -> SeriesUpdate:
        """A first run of the symbol; StepFailed as the worker would get it."""
        spec, time = VENDORS[self.name], VirtualTime(threads=1)
        secrets = {setting.name: SecretStr("key") for setting in spec.credentials}
        symbol, asset_class = self.request
        settings = Settings(
            **{f"providers_{asset_class}": (self.name,), spec.base_url.name: self.url, **secrets}
        )
        manager, store = init_resilience_manager(**time.injectables), EmptyStore()
        quick = VendorProtection(max_retries=0)
        pipeline = EnrichmentPipeline(
            build_providers(settings, manager, protection=quick, now=lambda: NOW),
            store,
            history_days=HISTORY_DAYS,
            now=lambda: NOW,
        )
        try:
            pipeline.enrich(Task(UUID(int=1), symbol, asset_class, (timeframe,), "w", 1))
        finally:
            manager.close()
        return store.updates[symbol, timeframe]

    def reference(self, timeframe: Timeframe) -> Bars:
        if timeframe not in self.good:
            self.gateway.reset()
            self.good[timeframe] = self.run(timeframe).bars
        return self.good[timeframe]

    def addresses(self, timeframe: Timeframe) -> list[str]:
        """The requests of a run with good answers."""
        self.gateway.reset()
        self.run(timeframe)
        return self.gateway.addresses


@pytest.fixture(scope="module")
def behind_gateway() -> Iterator[tuple[Gateway, str, dict[str, Vendor]]]:
    with gateway(NOW) as (built, url):
        yield built, url, {}


@pytest.fixture(params=VENDORS.names)
def vendor(
    request: pytest.FixtureRequest, behind_gateway: tuple[Gateway, str, dict[str, Vendor]]
) -> Vendor:
    built, url, vendors = behind_gateway
    return vendors.setdefault(request.param, Vendor(request.param, built, url))


def assert_bars_are_right(accepted: Bars, reference: Bars) -> None:
    """Every accepted bar is one of the reference's."""
    assert not accepted.missing_from(reference).any(), "bars that a good answer does not have"
    mine, theirs = accepted.intersect(reference)
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_allclose(
            getattr(mine, name), getattr(theirs, name), rtol=NOISE, err_msg=name
        )


def assert_reason_helps(vendor: Vendor, error: BaseException, addresses: list[str]) -> None:
    text = str(error)
    assert isinstance(error, EnrichmentError)
    assert not isinstance(error, UnknownSymbol) or "404" in text, text
    assert vendor.name in text.lower()
    if not isinstance(error, Snooze):  # a quota is no matter of one symbol
        words = [word.strip(",.:;()'") for word in text.split() if "SIM1" in word]
        asked = unquote(addresses[-1])
        assert any(word in asked and "/" not in word for word in words), text
        assert REMEDY.search(text), text


def spoiled(vendor: Vendor, timeframe: Timeframe, spoil: Spoil | None, **routes: Any) -> None:
    """A run with bad answers fails for a reason that helps, or stores no wrong bar."""
    reference = vendor.reference(timeframe)
    refused: list[NotApplicable] = []

    def recorded(answer: bad.Answer) -> None:
        try:
            if spoil is not None:
                spoil(answer)
        except NotApplicable as exc:
            refused.append(exc)

    vendor.gateway.reset(recorded, **routes)
    update, failure = None, None
    try:
        update = vendor.run(timeframe)
    except StepFailed as exc:
        failure = exc.__cause__
    if refused:
        pytest.skip(f"{vendor.name}: {refused[0]}")
    if failure is not None:
        assert_reason_helps(vendor, failure, vendor.gateway.addresses)
    if update is not None:
        assert_bars_are_right(update.bars, reference)
        lost = reference.missing_from(update.bars)
        noted = {np.datetime64(gap.ts.replace(tzinfo=None), "us") for gap in update.gaps}
        kept_out = [bar for fetch in update.fetches for bar in fetch.validation.quarantined]
        if len(update.bars) == 0:
            assert kept_out
            return
        inside = reference.ts > update.bars.ts.min()
        assert set(reference.ts[lost & inside]) <= noted, "bars are missing without a gap"


def reversed_rows(rows: list[Any]) -> list[Any]:
    return rows[::-1]


def shuffled(rows: list[Any]) -> list[Any]:
    return rows[1::2] + rows[::2]


def doubled(rows: list[Any]) -> list[Any]:
    return [row for row in rows for _ in range(2)]


def page(body: bytes) -> bytes:
    return b"<html><body>502 Bad Gateway</body></html>"


CONTENTS: dict[str, Callable[[], Spoil]] = {
    "html": lambda: bad.content(page, "text/html"),
    "html that says it is JSON": lambda: bad.content(page),
    "truncated": lambda: bad.content(lambda body: body[: len(body) // 2]),
    "nothing": lambda: bad.content(lambda body: b""),
    "null": lambda: bad.content(lambda body: b"null"),
    "another type": lambda: bad.content(lambda body: body, "text/plain"),
    "a list of nothing": lambda: bad.content(lambda body: b"[[]]"),
    "an object of nothing": lambda: bad.content(lambda body: b"{}"),
    "gzip bomb": lambda: bad.gzip_bomb,
    "reversed": lambda: bad.each_row(reversed_rows),
    "shuffled": lambda: bad.each_row(shuffled),
    "doubled": lambda: bad.each_row(doubled),
    "microseconds": lambda: bad.each_time(lambda t: t * (10**6 if t < 10**10 else 1000)),
    "milliseconds for seconds and the reverse": lambda: bad.each_time(
        lambda t: t * 1000 if t < 10**10 else t // 1000
    ),
    "a year earlier": lambda: bad.each_time(
        lambda t: t - 364 * 86_400 * (1 if t < 10**10 else 1000)
    ),
    "in the future": lambda: bad.each_time(
        lambda t: t + 364 * 86_400 * (1 if t < 10**10 else 1000)
    ),
    "NaN": lambda: bad.some_price("NaN"),
    "Infinity": lambda: bad.some_price("Infinity"),
    "null price": lambda: bad.some_price("null"),
    "negative price": lambda: bad.some_price("-1.5"),
    "zero price": lambda: bad.some_price("0"),
    "huge integer": lambda: bad.some_price("9" * 400),
    "price beyond any market": lambda: bad.some_price("1e300"),
    "all prices zero": lambda: bad.some_price("0.0", at=lambda number: True),
    "numbers for text and the reverse": lambda: bad.swapped_types,
}
STATUSES = (401, 403, 418, 429, 451, 400, 404, 500, 503)


@pytest.mark.parametrize("name", CONTENTS)
def test_a_bad_answer(vendor: Vendor, name: str) -> None:
    spoiled(vendor, ONE_PAGE, CONTENTS[name]())


@pytest.mark.parametrize(
    "name", ["doubled", "shuffled", "null price", "zero price", "a year earlier"]
)
def test_a_bad_answer_of_which_longer_bars_are_built(vendor: Vendor, name: str) -> None:
    spoiled(vendor, BUILT, CONTENTS[name]())


@pytest.mark.parametrize("name", ["html", "truncated", "NaN", "null price", "doubled", "reversed"])
def test_a_bad_answer_on_a_later_page(vendor: Vendor, name: str) -> None:
    spoiled(vendor, MANY_PAGES, bad.from_page(2, CONTENTS[name](), only=True))


@pytest.mark.parametrize("code", STATUSES)
def test_a_refusal(vendor: Vendor, code: int) -> None:
    spoiled(vendor, ONE_PAGE, bad.status(code))


@pytest.mark.parametrize("code", [403, 418, 451, 500])
def test_a_refusal_of_a_part_of_the_window(vendor: Vendor, code: int) -> None:
    spoiled(vendor, MANY_PAGES, bad.from_page(2, bad.status(code)))


def test_an_empty_page_in_the_middle(vendor: Vendor) -> None:
    spoiled(vendor, MANY_PAGES, bad.from_page(2, bad.no_rows, only=True))


@pytest.mark.parametrize("fresh", [False, True])
def test_links_to_further_pages_without_end(vendor: Vendor, fresh: bool) -> None:
    endless = bad.Endless(fresh=fresh)
    spoiled(vendor, MANY_PAGES, endless, reroute=endless.reroute)
    vendor.gateway.reset(endless, endless.reroute)


def test_the_answer_of_another_symbol(vendor: Vendor) -> None:
    vendor.reference(ONE_PAGE)
    vendor.gateway.reset()
    bodies: list[bytes] = []
    vendor.gateway.spoil = lambda answer: bodies.append(answer.body)
    vendor.run(ONE_PAGE)
    if not any(b"SIM1" in body for body in bodies):
        pytest.skip(f"{vendor.name}'s answers do not say whose they are")
    spoiled(vendor, ONE_PAGE, None, reroute=lambda address: address.replace("SIM1", "SIM2"))


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (Timeframe.D1, Timeframe.M15),
        (Timeframe.M15, Timeframe.M5),
        (Timeframe.M5, Timeframe.M15),
        (Timeframe.M15, Timeframe.D1),
        (Timeframe.H1, Timeframe.D1),
    ],
)
def test_another_granularity(vendor: Vendor, asked: Timeframe, answered: Timeframe) -> None:
    theirs = vendor.addresses(answered)
    mine = vendor.addresses(asked)
    instead = {address: theirs[min(n, len(theirs) - 1)] for n, address in enumerate(mine)}
    spoiled(vendor, asked, None, reroute=lambda address: instead.get(address, theirs[0]))


def test_answers_are_json(vendor: Vendor) -> None:
    """The gateway spoils something: the sandbox's answers have rows and prices."""
    vendor.reference(ONE_PAGE)
    seen: list[Any] = []
    vendor.gateway.reset(lambda answer: seen.append(orjson.loads(answer.body)))
    vendor.run(ONE_PAGE)
    assert all(bad.rows_of(body) for body in seen)
