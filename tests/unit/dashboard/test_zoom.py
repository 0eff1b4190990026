"""What is left of a zoom when the data of a chart change."""

from __future__ import annotations

import plotly.graph_objects as go

from enrichment.dashboard.zoom import moved, zoomed


def layout(*days: str) -> go.Layout:
    return go.Layout(xaxis={"type": "category", "categoryarray": list(days)})


def test_a_range_of_categories_moves_with_them() -> None:
    zoom = {"xaxis": [0.6, 2.4], "yaxis": [10.0, 20.0]}
    before, after = layout("Mon", "Tue", "Wed"), layout("Tue", "gap", "Wed", "Thu")
    assert moved(zoom, before, after) == {"xaxis": [-0.4, 2.4], "yaxis": [10.0, 20.0]}


def test_an_axis_that_has_lost_the_end_of_its_range_is_free() -> None:
    zoom = {"xaxis": [-0.4, 1.4], "yaxis": [10.0, 20.0]}
    before, after = layout("Mon", "Tue", "Wed"), layout("Tue", "Wed", "Thu")
    assert moved(zoom, before, after) == {"yaxis": [10.0, 20.0]}


def test_a_range_of_times_or_prices_stays() -> None:
    zoom = {"xaxis": ["2026-01-02", "2026-02-03"]}
    dates = go.Layout(xaxis={"type": "date"})
    assert moved(zoom, dates, dates) == zoom


def test_the_shared_figure_is_not_changed() -> None:
    figure = go.Figure(layout=layout("Mon", "Tue"))
    shown = zoomed(figure, {"xaxis": [0.5, 1.5]})
    assert shown.layout.xaxis.range == (0.5, 1.5)
    assert figure.layout.xaxis.range is None
    assert zoomed(figure, {}) is figure
