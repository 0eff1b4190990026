"""The vendors' protection as the workers publish it, summed up by provider."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from enrichment.warehouse.read_models.dto import PatternStatus

STATE_SEVERITY = ("forced_open", "open", "half_open", "disabled", "closed")


@dataclass(frozen=True, slots=True)
class VendorState:
    """A provider as all workers see it.

    breaker: the gravest state; working: workers that have published it lately, the others' figures
    count in requests and refusals (429) alone. failing: the highest failure rate, 0–1. tokens,
    quota: permits left and permits a burst, None where there is no quota. active, slots: of the
    bulkheads.
    """

    name: str
    breaker: str | None
    working: int
    failing: float | None
    last_error: str | None
    tokens: int | None
    quota: int | None
    requests: int
    refusals: int
    active: int
    slots: int

    @property
    def refused(self) -> float | None:
        """Percent of the requests that were answered with 429."""
        return 100.0 * self.refusals / self.requests if self.requests else None


def of_kind(patterns: Sequence[PatternStatus], kind: str) -> list[PatternStatus]:
    return [pattern for pattern in patterns if pattern.kind == kind]


def vendors(patterns: Sequence[PatternStatus]) -> list[VendorState]:
    """By name; breakers that protect no vendor are left out."""
    names = {p.name for p in of_kind(patterns, "rate_limiter") if p.name.endswith("_api")}
    return [_vendor(name, [p for p in patterns if p.name == name]) for name in sorted(names)]


def _vendor(name: str, patterns: Sequence[PatternStatus]) -> VendorState:
    now = [pattern for pattern in patterns if not pattern.stale]
    breakers = of_kind(now, "circuit_breaker")
    states = [breaker.state for breaker in breakers]
    limits = [limit.status for limit in of_kind(now, "rate_limiter") if limit.status.get("strict")]
    asked = [limit.status for limit in of_kind(patterns, "rate_limiter")]
    bulkheads = [bulkhead.status for bulkhead in of_kind(now, "bulkhead")]
    return VendorState(
        name=name.removesuffix("_api"),
        breaker=next((state for state in STATE_SEVERITY if state in states), None),
        working=len(breakers),
        failing=max((b.status.get("failure_rate") or 0.0 for b in breakers), default=None),
        last_error=next(
            (_error_text(e) for b in breakers if (e := b.status.get("last_error"))), None
        ),
        tokens=min((int(limit["tokens"]) for limit in limits), default=None),
        quota=min((int(limit["burst"]) for limit in limits), default=None),
        requests=_sum(asked, "granted_count"),
        refusals=_sum(asked, "paused_count"),
        active=_sum(bulkheads, "active_count"),
        slots=_sum(bulkheads, "max_concurrent"),
    )


def _error_text(error: str) -> str:
    """An error's own words, of the form in which a breaker keeps it: Class('words')."""
    found = re.fullmatch(r"\w+\((['\"])(.*)\1\)", error)
    return found[2] if found else error


def _sum(statuses: Sequence[Any], field: str) -> int:
    return sum(int(status.get(field) or 0) for status in statuses)
