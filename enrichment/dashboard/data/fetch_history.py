"""Latency percentiles and fallback shares of the providers, from the hourly fetch history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from enrichment.domain.model import LATENCY_BUCKETS_MS
from enrichment.vendors.registry import VENDORS
from enrichment.warehouse.read_models.vendors import Answers, Fetches

PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def percentile(counts: Sequence[int], q: float) -> float | None:
    """The q-quantile of a latency histogram in ms, interpolated linearly within its bucket.

    Args:
        counts: Fetches per bucket of `LATENCY_BUCKETS_MS`; the last bucket has no upper bound.
        q: A fraction from 0 to 1.

    Returns:
        The lower bound if it lies in the last bucket, None if the histogram is empty.
    """
    rank, below = q * sum(counts), 0
    bounds = (0, *LATENCY_BUCKETS_MS)
    for lower, upper, count in zip(bounds, (*bounds[1:], None), counts, strict=True):
        if count and below + count >= rank:
            return float(
                lower if upper is None else lower + (upper - lower) * (rank - below) / count
            )
        below += count
    return None


def latencies(fetches: Sequence[Fetches]) -> pd.DataFrame:
    """Columns start, provider, fetches, p50, p95, p99 (ms), by provider and time."""
    rows = [
        {
            "start": part.start,
            "provider": VENDORS.name_of(part.source),
            "fetches": part.total,
            **_percentiles(part.buckets),
        }
        for part in fetches
        if part.source != "none"
    ]
    return pd.DataFrame(rows, columns=["start", "provider", "fetches", *PERCENTILES])


def latencies_by_provider(fetches: Sequence[Fetches]) -> dict[str, dict[str, float | None]]:
    """Provider → p50, p95 and p99 (ms) over all of these fetches."""
    counts: dict[str, list[int]] = {}
    for part in fetches:
        name = VENDORS.name_of(part.source)
        sums = counts.get(name, [0] * len(part.buckets))
        counts[name] = [a + b for a, b in zip(sums, part.buckets, strict=True)]
    return {name: _percentiles(buckets) for name, buckets in counts.items()}


def _percentiles(counts: Sequence[int]) -> dict[str, float | None]:
    return {name: percentile(counts, q) for name, q in PERCENTILES.items()}


def served_fetches(
    history: Sequence[Answers], provider_orders: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Successful fetches by the provider that served them.

    Args:
        history: From the read models.
        provider_orders: Asset class → its providers, first choice first.

    Returns:
        Columns start, asset_class, provider, fetches, fallback (whether the provider is not the
        asset class's first choice).
    """
    rows = [
        {
            "start": part.start,
            "asset_class": part.asset_class,
            "provider": (provider := VENDORS.name_of(part.source)),
            "fetches": part.answered,
            "fallback": provider != next(iter(provider_orders[part.asset_class]), None),
        }
        for part in history
    ]
    return pd.DataFrame(rows, columns=["start", "asset_class", "provider", "fetches", "fallback"])


def fallback_shares(served: pd.DataFrame) -> dict[str, float]:
    """Asset class → percent of its fetches that a fallback served."""
    return {
        str(asset_class): 100.0
        * float(part.loc[part["fallback"], "fetches"].sum())
        / float(part["fetches"].sum())
        for asset_class, part in served.groupby("asset_class")
    }
