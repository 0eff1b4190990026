"""Whether the forecast of a night's end is right: late nights are told before they are late.

    python -m tests.benchmarks.forecast [--nights 300] [--late 60] [--seed 1]

Nights of a vendor with 5 requests a minute, from 01:30 to a deadline at 04:00, minute by minute,
with the forecast and the rule of the product: of different lengths, some with an outage of the
vendor, a vendor that is slower than its quota from some time on, or a pause that it asked for. They
are drawn until there are as many late ones, and others, as are asked for. A night is told if the
alert fires at least 15 minutes before the deadline.

The time left is compared with the one that it really took, from a fifth of the requests on, in
nights without a disturbance.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from enrichment.domain.forecast import VendorWork
from enrichment.domain.statuses import AlertStatus
from enrichment.services.alerts.evaluation import next_state
from enrichment.services.alerts.rules import DEFAULT_RULES
from tests.benchmarks.report import Figure, parser, tell

QUOTA = 5
BEGIN = datetime(2026, 3, 3, 1, 30, tzinfo=UTC)
DEADLINE = datetime(2026, 3, 3, 4, tzinfo=UTC)
AHEAD = timedelta(minutes=15)
WINDOW = 15  # minutes of which the pace is known
MINUTE = timedelta(minutes=1)
RULE = next(rule for rule in DEFAULT_RULES if rule.name == "DeadlineAtRisk")


@dataclass(frozen=True)
class Night:
    """What happens in a night; minutes count from its beginning."""

    requests: list[int]  # of each symbol
    disturbance: str = "none"
    since: int = 0
    until: int = 0
    slow: float = 0.0  # requests a minute of a vendor that is slow

    def pace(self, minute: int, random_: random.Random) -> float:
        """Requests of a minute."""
        if not self.since <= minute < self.until or self.disturbance == "none":
            return QUOTA
        if self.disturbance == "slow":
            return self.slow + random_.choice((-1, 0, 0, 1)) * min(1.0, self.slow)
        return 0.0

    def blocked(self, minute: int) -> float:
        """Seconds until the vendor may be asked again, as far as that is known."""
        paused = self.disturbance == "pause" and self.since <= minute < self.until
        return 60.0 * (self.until - minute) if paused else 0.0


@dataclass
class Outcome:
    late: bool
    alerted: datetime | None = None
    errors: tuple[float, ...] = ()  # of the time left, relative

    @property
    def told(self) -> bool:
        return self.alerted is not None and self.alerted <= DEADLINE - AHEAD


def drawn(random_: random.Random) -> Night:
    symbols = round(random_.triangular(150, 1000, 520))
    requests = [1 if random_.random() < 0.95 else 2 for _ in range(symbols)]
    kind = random_.choices(("none", "outage", "slow", "pause"), (50, 20, 15, 15))[0]
    since = random_.randrange(5, 140)
    longest = {"none": 1, "outage": 60, "slow": 150, "pause": 90}[kind]
    length = round(random_.triangular(3, max(4, longest), 10))
    return Night(requests, kind, since, since + length, random_.choice((1.0, 2.0, 3.0)))


def lived(night: Night, random_: random.Random) -> Outcome:
    """Run the night, with an evaluation of the alert every minute."""
    left, budget, minute = list(night.requests), 0.0, 0
    done: list[tuple[int, int]] = []  # symbols and requests of each minute
    state, alerted = None, None
    estimates: list[tuple[int, float]] = []
    while left:
        budget = min(budget, 1.0) + night.pace(minute, random_)
        symbols, requests = 0, 0
        while left and budget >= left[-1]:
            cost = left.pop()
            budget -= cost
            symbols, requests = symbols + 1, requests + cost
        done.append((symbols, requests))
        minute += 1
        recent = done[-WINDOW:]
        asked = sum(n for _, n in recent)
        work = VendorWork(
            "polygon",
            len(left) * (asked + 1) / (sum(n for n, _ in recent) + 1),
            asked,
            60.0 * len(recent),
            QUOTA,
            night.blocked(minute),
            best(done),
        )
        seconds, now = work.seconds_left() or 0.0, BEGIN + minute * MINUTE
        soonest = timedelta(seconds=work.seconds_left(at_best=True) or 0.0)
        late = (now + soonest - DEADLINE) / MINUTE if left else 0.0
        state = next_state(RULE, state, max(0.0, late), now, uuid.uuid4).state
        if state.state == AlertStatus.FIRING and alerted is None:
            alerted = now
        if len(left) < 0.8 * len(night.requests):
            estimates.append((minute, seconds))
    ended = minute
    errors = [abs(s - 60 * (ended - m)) / (60 * (ended - m)) for m, s in estimates if ended - m > 5]
    return Outcome(BEGIN + minute * MINUTE > DEADLINE, alerted, tuple(errors))


def best(done: list[tuple[int, int]]) -> float | None:
    """Requests a minute, of the best five minutes; None before there are any."""
    stretches = [sum(n for _, n in done[at : at + 5]) / 5 for at in range(0, len(done), 5)]
    return max(stretches) or None


def nights(total: int, late: int, seed: int) -> Iterator[tuple[Night, Outcome]]:
    """As many late nights as are asked for, and others."""
    random_ = random.Random(seed)
    wanted = {True: late, False: total - late}
    while any(wanted.values()):
        night = drawn(random_)
        outcome = lived(night, random_)
        if wanted[outcome.late]:
            wanted[outcome.late] -= 1
            yield night, outcome


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--nights", type=int, default=300)
    options.add_argument("--late", type=int, default=60)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    found = list(islice(nights(chosen.nights, chosen.late, chosen.seed), chosen.nights))
    alerted = [outcome for _, outcome in found if outcome.alerted is not None]
    late = [outcome for _, outcome in found if outcome.late]
    right = sum(outcome.late for outcome in alerted)
    told = [outcome for outcome in late if outcome.told]
    ahead = sorted((DEADLINE - o.alerted) / MINUTE for o in told if o.alerted is not None)
    errors = sorted(e for n, o in found if n.disturbance == "none" for e in o.errors)
    figures = [
        Figure("precision of the alert", right / max(1, len(alerted)), "", "≥", 0.8),
        Figure("recall, 15 minutes ahead", len(told) / max(1, len(late)), "", "≥", 0.9),
        Figure("minutes ahead, median", ahead[len(ahead) // 2] if ahead else 0.0, "min"),
        Figure("time left is wrong by, p99", errors[int(0.99 * len(errors))], "", "≤", 0.15),
    ]
    tell(f"{len(found)} nights of which {len(late)} are late", figures, chosen)


if __name__ == "__main__":
    main()
