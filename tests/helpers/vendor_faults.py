"""Faults that the sandbox injects, and the error that every provider raises for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import requests

from enrichment.domain.errors import (
    AccessDenied,
    MalformedResponse,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
)

FAULTS: list[tuple[dict[str, object], type[ProviderError]]] = [
    ({"kind": "rate_limit", "seconds": 7}, QuotaExceeded),
    ({"kind": "server_error", "status": 503}, ProviderUnavailable),
    ({"kind": "html"}, ProviderUnavailable),
    ({"kind": "html", "status": 200}, MalformedResponse),
    ({"kind": "truncated"}, MalformedResponse),
    ({"kind": "corrupt", "mode": "nan"}, MalformedResponse),
    ({"kind": "corrupt", "mode": "text"}, MalformedResponse),
    ({"kind": "reset"}, ProviderUnavailable),
    ({"kind": "unauthorized"}, AccessDenied),
    ({"kind": "forbidden"}, AccessDenied),
]


def inject_faults(sandbox: str, *faults: Mapping[str, object]) -> None:
    """Add these faults to those of the sandbox at this address."""
    answer = requests.post(f"{sandbox}/_sandbox/faults", json=faults, timeout=10)
    assert answer.status_code == 200, answer.text


def clear_faults(sandbox: str) -> None:
    requests.delete(f"{sandbox}/_sandbox/faults", timeout=10)


def faults_of(address: str) -> Iterator[Callable[..., None]]:
    """A function that injects a fault into the sandbox; all faults are removed in the end."""

    def add(**description: object) -> None:
        inject_faults(address, description)

    yield add
    clear_faults(address)
