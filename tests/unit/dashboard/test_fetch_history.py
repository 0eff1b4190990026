"""Percentiles of histograms and who answered, against sums made by hand."""

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


def test_evenly_spread_latencies_have_their_own_percentiles() -> None:
    counts = histogram(*np.linspace(250, 500, 1001)[:-1])
    found = [fetch_history.percentile(counts, q) for q in (0.5, 0.95, 0.99)]
    assert found == pytest.approx([375, 487.5, 497.5])


def test_a_percentile_lies_in_the_bucket_of_the_true_one() -> None:
    values = np.random.default_rng(7).lognormal(4.5, 1.0, 5000)
    for q in (0.01, 0.5, 0.95, 0.99):
        true, found = float(np.quantile(values, q)), fetch_history.percentile(histogram(*values), q)
        assert found is not None
        assert np.digitize(true, LATENCY_BUCKETS_MS) == np.digitize(found, LATENCY_BUCKETS_MS)


def test_beyond_the_last_bound_only_the_bound_is_known() -> None:
    assert fetch_history.percentile(histogram(20_000, 90_000), 0.99) == 10_000
    assert fetch_history.percentile(histogram(), 0.5) is None


def test_latencies_are_a_providers_whatever_stands_in_its_place() -> None:
    counts = histogram(60, 70, 80, 90)
    fetches = [
        Fetches(HOUR, source, 4, 4, counts) for source in ("sandbox", "sandbox:yahoo", "none")
    ]
    rows = fetch_history.latencies(fetches)
    assert list(rows["provider"]) == ["polygon", "yahoo"]
    assert rows["p50"].tolist() == [75.0, 75.0]
    both = fetch_history.overall([*fetches, Fetches(HOUR, "polygon", 4, 4, histogram(1, 2, 3, 4))])
    assert both["polygon"]["p50"] == 10.0
    figure = json.loads(
        provider_charts.latency(rows, "UTC", (rows["start"].min(), rows["start"].max())).to_json()
    )
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["polygon", "yahoo"]
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert "ms of %{customdata:,} fetches" in figure["data"][0]["hovertemplate"]


def test_a_fallback_is_whoever_is_not_first_in_its_asset_class() -> None:
    found = [
        Answers(HOUR, "stock", "polygon", 30),
        Answers(HOUR, "stock", "yahoo", 10),
        Answers(HOUR + timedelta(hours=1), "crypto", "sandbox", 5),
        Answers(HOUR + timedelta(hours=1), "crypto", "sandbox:binance", 45),
    ]
    rows = fetch_history.answers(found, ORDERS)
    assert rows["fallback"].tolist() == [False, True, True, False]
    assert fetch_history.fallback_shares(rows) == {"crypto": 10.0, "stock": 25.0}
    span = (pd.Timestamp(HOUR), pd.Timestamp(HOUR) + pd.Timedelta(hours=24))
    drawn = provider_charts.answers(rows, "UTC", span)
    hatched = {bar.name for bar in drawn.data if bar.marker.pattern.shape == "/"}
    assert hatched == {"polygon, as fallback", "yahoo, as fallback"}
    assert drawn.layout.barmode == "stack"
