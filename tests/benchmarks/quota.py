"""What a vendor's quota costs: requests and minutes on the free plan, against its sandbox.

    python -m tests.benchmarks.quota [--parts whole_days …] [--symbols 10000] [--first-symbols 500]

whole_days: a night of many US daily series with one new day each, and a first year of fewer ones.
clicks: how soon a symbol that a person triggers is asked for during such a night.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from enrichment.sandbox import create_app, running
from enrichment.sandbox.vendor import SandboxVendor
from tests.benchmarks.installation import Installation, embedded_server, installation
from tests.benchmarks.nightly import a_day_earlier
from tests.benchmarks.quota_clicks import clicks
from tests.benchmarks.report import Figure, parser, tell

PER_MINUTE = 5
SINGLY = 240  # new symbols, whose first year takes fewer requests than the days of the market
FAST = 100_000  # requests a minute, where only their number is of interest


def whole_days(options: Any) -> Iterator[Figure]:
    """The night in real time at 5 requests a minute, after a history without a quota."""
    first, symbols = options.first_symbols, options.symbols
    with embedded_server() as server, vendor_on("paid", first) as (vendor, url):
        with worker(server, url, FAST) as built:
            built.track([f"SIM{n}" for n in range(1, first + 1)], "1d")
            built.run()
        asked, at_most = vendor.requests.describe()["total"], min(first, 260)
        yield Figure(f"first year of {first} symbols", asked, "requests", "≤", at_most)
    with embedded_server() as server:
        with vendor_on("paid", symbols) as (_, url), worker(server, url, FAST) as built:
            for start in range(1, symbols + 1, SINGLY):
                names = [f"SIM{n}" for n in range(start, min(start + SINGLY, symbols + 1))]
                built.track(names, "1d")
                built.run(names)
            a_day_earlier(built)
        with vendor_on("free", symbols) as (vendor, url), worker(server, url, PER_MINUTE) as built:
            night = built.run()
            asked = vendor.requests.describe()["total"]
    yield Figure(f"night of {symbols} symbols, one new day each", asked, "requests", "≤", 15)
    yield Figure("until all of them are current", night.seconds / 60, "minutes", "≤", 5)
    yield Figure("worker's memory, highest", night.peak_mb, "MB", "≤", 500)


@contextmanager
def vendor_on(plan: str, symbols: int) -> Iterator[tuple[SandboxVendor, str]]:
    """Polygon on this plan, with these many simulated stocks in its whole days."""
    app = create_app(plan=plan, listed=symbols)
    vendor: SandboxVendor = app.extensions["sandbox"]
    with running(app) as url:
        yield vendor, url


def worker(server: str, vendor: str, per_minute: int) -> AbstractContextManager[Installation]:
    """A worker with default settings that asks this vendor so often at most."""
    return installation(5, server=server, vendor=vendor, POLYGON_RATE=str(per_minute))


PARTS: Mapping[str, Callable[[Any], Iterator[Figure]]] = {
    "whole_days": whole_days,
    "clicks": clicks,
}


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parsing.add_argument("--symbols", type=int, default=10_000)
    parsing.add_argument("--first-symbols", type=int, default=500, help="of the first year")
    parsing.add_argument("--clicks", type=int, default=60)
    parsing.add_argument("--speed", type=float, default=8.0, help="of the clocks for the clicks")
    options = parsing.parse_args()
    tell("quota", (figure for part in options.parts for figure in PARTS[part](options)), options)


if __name__ == "__main__":
    main()
