"""The state of each provider, summed up over the workers' resilience patterns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from enrichment.warehouse.read_models.dto import PatternStatus
from resilience import State

# Most severe first.
BREAKER_STATES = ("forced_open", State.OPEN, State.HALF_OPEN, "disabled", State.CLOSED)
UNAVAILABLE = ("forced_open", State.OPEN, State.HALF_OPEN)


@dataclass(frozen=True, slots=True)
class Override:
    """Who has forced open or disabled a breaker, since when, and why."""

    set_by: str
    since: datetime
    reason: str | None


@dataclass(frozen=True, slots=True)
class ProviderState:
    """A provider as all workers see it.

    Requests and refusals are of all workers of the last day, the rest of those that report now.
    """

    name: str
    breaker: str | None  # the most severe state; None if no worker reports
    override: Override | None
    workers: int
    failure_rate: float | None  # the highest, 0–1; None without requests
    last_error: str | None
    quota_left: int | None  # the fewest permits; None without a quota
    quota: int | None  # permits in a burst
    requests: int
    refusals: int  # answers with the status 429
    active: int  # running requests
    concurrency: int  # how many may run

    @property
    def refused_percent(self) -> float | None:
        """Refused requests in percent of all, None without requests."""
        return 100.0 * self.refusals / self.requests if self.requests else None


def of_kind(patterns: Sequence[PatternStatus], kind: str) -> list[PatternStatus]:
    return [pattern for pattern in patterns if pattern.kind == kind]


def provider_states(patterns: Sequence[PatternStatus]) -> list[ProviderState]:
    """By name; patterns that protect something else than a provider are left out."""
    names = {p.name for p in of_kind(patterns, "rate_limiter") if p.name.endswith("_api")}
    return [
        _provider_state(name, [p for p in patterns if p.name == name]) for name in sorted(names)
    ]


def _provider_state(name: str, patterns: Sequence[PatternStatus]) -> ProviderState:
    current = [pattern for pattern in patterns if not pattern.stale]
    breakers = of_kind(current, "circuit_breaker")
    states = [breaker.shown_state for breaker in breakers]
    quotas = [limit for limit in _statuses(current, "rate_limiter") if limit.get("strict")]
    requests = _statuses(patterns, "rate_limiter")
    bulkheads = _statuses(current, "bulkhead")
    errors = [error for breaker in breakers if (error := breaker.status.get("last_error"))]
    return ProviderState(
        name=name.removesuffix("_api"),
        breaker=next((state for state in BREAKER_STATES if state in states), None),
        override=next(
            (Override(b.set_by, b.since, b.reason) for b in breakers if b.set_by and b.since), None
        ),
        workers=len(breakers),
        failure_rate=max(map(_failure_rate, filter(_has_outcomes, breakers)), default=None),
        last_error=_error_message(errors[0]) if errors else None,
        quota_left=min((int(quota["tokens"]) for quota in quotas), default=None),
        quota=min((int(quota["burst"]) for quota in quotas), default=None),
        requests=_sum(requests, "granted_count"),
        refusals=_sum(requests, "paused_count"),
        active=_sum(bulkheads, "active_count"),
        concurrency=_sum(bulkheads, "max_concurrent"),
    )


def _statuses(patterns: Sequence[PatternStatus], kind: str) -> list[Mapping[str, Any]]:
    return [pattern.status for pattern in of_kind(patterns, kind)]


def _has_outcomes(breaker: PatternStatus) -> bool:
    """Whether there were requests in the breaker's window."""
    return bool(breaker.status["failure_count"] + breaker.status["success_count"])


def _failure_rate(breaker: PatternStatus) -> float:
    return float(breaker.status["failure_rate"])


def _error_message(error: str) -> str:
    """The message of an error as a breaker stores it, Class('message')."""
    match = re.fullmatch(r"\w+\((['\"])(.*)\1\)", error)
    return match[2] if match else error


def _sum(statuses: Sequence[Mapping[str, Any]], field: str) -> int:
    return sum(int(status.get(field) or 0) for status in statuses)
