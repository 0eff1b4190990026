"""Rows of the quality read models as frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from enrichment.warehouse.read_models.quality_all import GapsOfMonth, SeriesQuality


def series_frame(rows: Sequence[SeriesQuality | GapsOfMonth]) -> pd.DataFrame:
    """A row per series or month, with its fields and the series' name."""
    frame = pd.DataFrame([asdict(row) for row in rows])
    return frame.assign(name=frame["symbol"] + " " + frame["timeframe"])
