"""Latency percentiles and fallback shares, compared with values computed by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from enrichment.dashboard.charts import providers as provider_charts
from enrichment.dashboard.data import fetch_history
from enrichment.domain.model import LATENCY_BUCKETS_MS
from enrichment.warehouse.read_models.vendors import Answers, Fetches

HOUR = datetime(2024, 3, 1, 1, tzinfo=UTC)
ORDERS = {"stock": ("polygon", "yahoo"), "crypto": ("binance", "polygon")}


def histogram(*milliseconds: float) -> list[int]:
    edges = [0, *LATENCY_BUCKETS_MS, np.inf]
    return [int(n) for n in np.histogram(milliseconds, edges)[0]]


def test_percentiles_of_evenly_spread_latencies_are_exact() -> None:
    counts = histogram(*np.linspace(250, 500, 1001)[:-1])
    percentiles = [fetch_history.percentile(counts, q) for q in (0.5, 0.95, 0.99)]
    assert percentiles == pytest.approx([375, 487.5, 497.5])


def test_a_percentile_is_in_the_same_bucket_as_the_exact_one() -> None:
    values = np.random.default_rng(7).lognormal(4.5, 1.0, 5000)
    for q in (0.01, 0.5, 0.95, 0.99):
        exact = float(np.quantile(values, q))
        estimate = fetch_history.percentile(histogram(*values), q)
        assert estimate is not None
        assert np.digitize(exact, LATENCY_BUCKETS_MS) == np.digitize(estimate, LATENCY_BUCKETS_MS)


def test_a_percentile_in_the_last_bucket_is_its_lower_bound() -> None:
    assert fetch_history.percentile(histogram(20_000, 90_000), 0.99) == 10_000
    assert fetch_history.percentile(histogram(), 0.5) is None


def test_latencies_of_the_sandbox_are_those_of_the_provider_it_replaces() -> None:
    counts = histogram(60, 70, 80, 90)
    fetches = [
        Fetches(HOUR, source, 4, 4, counts) for source in ("sandbox", "sandbox:yahoo", "none")
    ]
    rows = fetch_history.latencies(fetches)
    assert list(rows["provider"]) == ["polygon", "yahoo"]
    assert rows["p50"].tolist() == [75.0, 75.0]
    fetches.append(Fetches(HOUR, "polygon", 4, 4, histogram(1, 2, 3, 4)))
    assert fetch_history.latencies_by_provider(fetches)["polygon"]["p50"] == 10.0
    figure = json.loads(
        provider_charts.latency(rows, "UTC", (rows["start"].min(), rows["start"].max())).to_json()
    )
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["polygon", "yahoo"]
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert "ms of %{customdata:,} fetches" in figure["data"][0]["hovertemplate"]


def test_a_fallback_is_a_provider_that_is_not_the_first_of_its_asset_class() -> None:
    history = [
        Answers(HOUR, "stock", "polygon", 30),
        Answers(HOUR, "stock", "yahoo", 10),
        Answers(HOUR + timedelta(hours=1), "crypto", "sandbox", 5),
        Answers(HOUR + timedelta(hours=1), "crypto", "sandbox:binance", 45),
    ]
    rows = fetch_history.served_fetches(history, ORDERS)
    assert rows["fallback"].tolist() == [False, True, True, False]
    assert fetch_history.fallback_shares(rows) == {"crypto": 10.0, "stock": 25.0}
    span = (pd.Timestamp(HOUR), pd.Timestamp(HOUR) + pd.Timedelta(hours=24))
    figure = provider_charts.requests_by_provider(rows, "UTC", span)
    hatched = {bar.name for bar in figure.data if bar.marker.pattern.shape == "/"}
    assert hatched == {"polygon, as fallback", "yahoo, as fallback"}
    assert figure.layout.barmode == "stack"
