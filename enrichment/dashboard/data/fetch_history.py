"""Percentiles from histograms, and the vendors' figures made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from enrichment.domain.model import LATENCY_BUCKETS_MS
from enrichment.vendors.registry import VENDORS
from enrichment.warehouse.read_models.vendors import Answers, Fetches

PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def percentile(counts: Sequence[int], q: float) -> float | None:
    """The latency in ms that the fraction q of the fetches did not exceed, None without any.

    counts: per bucket of `LATENCY_BUCKETS_MS`. Within a bucket fetches are taken to be spread
    evenly; in the last one, which has no upper bound, its lower bound is all that is known.
    """
    rank, before = q * sum(counts), 0
    bounds = (0, *LATENCY_BUCKETS_MS)
    for lower, upper, count in zip(bounds, (*bounds[1:], None), counts, strict=True):
        if count and before + count >= rank:
            return float(
                lower if upper is None else lower + (upper - lower) * (rank - before) / count
            )
        before += count
    return None


def latencies(fetches: Sequence[Fetches]) -> pd.DataFrame:
    """Columns start, provider, fetches, p50, p95, p99 (ms), by provider and time."""
    rows = [
        {
            "start": part.start,
            "provider": VENDORS.name_of(part.source),
            "fetches": part.total,
            **{name: percentile(part.buckets, q) for name, q in PERCENTILES.items()},
        }
        for part in fetches
        if part.source != "none"
    ]
    return pd.DataFrame(rows, columns=["start", "provider", "fetches", *PERCENTILES])


def overall(fetches: Sequence[Fetches]) -> dict[str, dict[str, float | None]]:
    """Provider → its percentiles over the whole span."""
    sums: dict[str, list[int]] = {}
    for part in fetches:
        name = VENDORS.name_of(part.source)
        sums[name] = [a + b for a, b in zip(sums.get(name, [0] * 11), part.buckets, strict=True)]
    return {
        name: {label: percentile(counts, q) for label, q in PERCENTILES.items()}
        for name, counts in sums.items()
    }


def answers(found: Sequence[Answers], orders: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Columns start, asset_class, provider, answered, fallback: whether another provider comes
    first in the asset class' order.
    """
    rows = [
        {
            "start": part.start,
            "asset_class": part.asset_class,
            "provider": VENDORS.name_of(part.source),
            "answered": part.answered,
            "fallback": VENDORS.name_of(part.source) != next(iter(orders[part.asset_class]), None),
        }
        for part in found
    ]
    return pd.DataFrame(rows, columns=["start", "asset_class", "provider", "answered", "fallback"])


def fallback_shares(answered: pd.DataFrame) -> dict[str, float]:
    """Asset class → percent of its answers that came from a fallback."""
    return {
        str(kind): 100.0
        * float(part.loc[part["fallback"], "answered"].sum())
        / float(part["answered"].sum())
        for kind, part in answered.groupby("asset_class")
    }
