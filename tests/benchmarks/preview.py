"""Whether a preview says what then happens: requests and minutes of random selections of symbols.

    python -m tests.benchmarks.preview [--selections 100] [--symbols 40] [--seed 1]

Real worker, queue and embedded server against the sandbox's free plan of 5 requests a minute, in
virtual time. Symbols have days, days and weeks, or hours too; some bars are missing at first, so
that gaps are asked for again. Each selection is previewed, run, and compared; then a minute passes,
after which the quota is unused, or a day.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from enrichment.domain.symbol_csv import parse_tracked
from enrichment.sandbox.faults import Fault
from enrichment.services.commands import Commands
from enrichment.services.request_plan import RequestPlan, RequestSettings, plan_requests
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from enrichment.warehouse.queue import symbols as tracked_symbols
from enrichment.wiring.database import upgrade_schema
from tests.benchmarks.report import Figure, parser, tell
from tests.helpers.free_plan import FreePlanNights, free_plan_nights

SETTINGS = RequestSettings(
    {"stock": ("polygon", "yahoo")}, {"polygon": 5, "yahoo": 60}, 365, whole_days=()
)
TIMEFRAMES = ("1d", "1d", "1d,1w", "1h,4h,1d,1w")
SHARE_WITH_GAPS = 0.05
A_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Comparison:
    planned: int  # requests
    asked: int
    planned_minutes: float
    minutes: float

    @property
    def minutes_right(self) -> bool:
        """Within a fifth, or both less than a minute."""
        both = max(self.planned_minutes, self.minutes)
        return both < 1 or abs(self.planned_minutes - self.minutes) <= 0.2 * self.minutes


def compared(nights: FreePlanNights, chosen: list[str]) -> Comparison:
    planned = preview(nights, chosen)
    began = nights.time.wall()
    asked = sum(nights.run(chosen).values())
    minutes = (nights.time.wall() - began) / timedelta(minutes=1)
    return Comparison(planned.total_requests, asked, planned.total_minutes, minutes)


def preview(nights: FreePlanNights, chosen: list[str]) -> RequestPlan:
    with nights.db.begin() as conn:
        items = tracked_symbols.select(conn, chosen)
        return plan_requests(conn, items, now=nights.time.wall(), settings=SETTINGS)


def comparisons(selections: int, symbols: int, seed: int) -> Iterator[Comparison]:
    random_ = random.Random(seed)
    names = [f"SIM{n}" for n in range(1, symbols + 1)]
    with (
        TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "postgres") as server,
        closing(Database(server.url, pool_size=5)) as db,
    ):
        upgrade_schema(db)
        with free_plan_nights(db, names, threads=5, timeframes="1d") as nights:
            longer = [parse_tracked(name, "stock", random_.choice(TIMEFRAMES)) for name in names]
            Commands(db).track(longer, actor="benchmark")
            with_gaps = random_.sample(names, max(1, round(SHARE_WITH_GAPS * symbols)))
            nights.faults.add([Fault(name, "missing", n=1, times=1) for name in with_gaps])
            for _ in range(selections):
                yield compared(nights, random_.sample(names, random_.randint(1, symbols)))
                nights.time.advance(A_MINUTE)
                if random_.random() < 0.5:
                    nights.next_night()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--selections", type=int, default=100)
    options.add_argument("--symbols", type=int, default=40)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    found = list(comparisons(chosen.selections, chosen.symbols, chosen.seed))
    planned, asked = sum(c.planned for c in found), sum(c.asked for c in found)
    wrong = sorted(abs(c.planned - c.asked) / c.asked for c in found)
    figures = [
        Figure("requests of all selections", asked, ""),
        Figure("planned for them, wrong by", abs(planned - asked) / asked, "", "≤", 0.01),
        Figure("requests of one selection, wrong by (p95)", wrong[int(0.95 * len(wrong))], ""),
        Figure(
            "selections whose minutes are within a fifth",
            sum(c.minutes_right for c in found) / len(found),
            "",
            "≥",
            0.95,
        ),
    ]
    tell(f"{len(found)} random selections", figures, chosen)


if __name__ == "__main__":
    main()
