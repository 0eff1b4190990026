"""Charts that stay zoomed when their data change, although Streamlit draws them anew then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go
import streamlit as st

Zoom = Mapping[str, Sequence[Any]]  # axis in the layout → its range; without those that are free
CONFIG = {"doubleClick": "autosize", "modeBarButtonsToRemove": ["resetScale2d"]}
# Reports the zoom of the chart that is beside it in a container.
_watch = st.components.v2.component(
    "zoom-watch",
    isolate_styles=False,
    js="""
const stops = new WeakMap();
export default ({ parentElement, setStateValue }) => {
    stops.get(parentElement)?.();
    const container = parentElement.closest('.stVerticalBlock');
    let graph = null;
    const report = () => {
        const zoomed = Object.entries(graph.layout).filter(
            ([name, axis]) => /^[xy]axis\\d*$/.test(name) && axis.autorange === false);
        setStateValue('zoom', Object.fromEntries(zoomed.map(([name, axis]) => [name, axis.range])));
    };
    const watch = () => {
        const current = container.querySelector('.js-plotly-plot');
        if (current === graph || !current?.on) return;
        graph = current;
        graph.on('plotly_relayout', report);
    };
    const observer = new MutationObserver(watch);
    const stop = () => {
        observer.disconnect();
        graph?.removeListener?.('plotly_relayout', report);
    };
    observer.observe(container, { childList: true, subtree: true });
    watch();
    stops.set(parentElement, stop);
    return stop;
};
""",
)


@dataclass
class _Drawn:
    subject: object
    figure: go.Figure
    shown: go.Figure  # the figure with the zoom at the time of its data's last change
    zoom: Zoom


def zoomable_chart(figure: go.Figure, *, key: str, subject: object) -> None:
    """A chart that keeps its zoom while it shows the same subject.

    Args:
        figure: Its axes have no range of their own.
        key: Of the chart.
        subject: What it shows; the chart of another one begins unzoomed.
    """
    drawn = st.session_state.get(f"{key}-drawn")
    if drawn is None or drawn.subject != subject:
        drawn = _Drawn(subject, figure, figure, {})
    elif drawn.figure is not figure and drawn.figure != figure:
        zoom = moved(drawn.zoom, drawn.figure.layout, figure.layout)
        drawn = replace(drawn, figure=figure, shown=zoomed(figure, zoom), zoom=zoom)
    st.session_state[f"{key}-drawn"] = drawn

    def keep_zoom() -> None:
        drawn.zoom = st.session_state[f"{key}-zoom"]["zoom"] or {}

    with st.container(key=f"{key}-zoomable", gap=None):
        _watch(key=f"{key}-zoom", on_zoom_change=keep_zoom)
        st.plotly_chart(drawn.shown, key=key, config=CONFIG)


def moved(zoom: Zoom, before: go.Layout, after: go.Layout) -> Zoom:
    """The zoom where the categories of an axis have changed: Plotly counts them from 0.

    An axis that has lost the first or last category of its range is free.
    """
    places = {
        axis: [_moved(end, _categories(before[axis]), _categories(after[axis])) for end in ends]
        for axis, ends in zoom.items()
    }
    return {axis: ends for axis, ends in places.items() if None not in ends}


def _categories(axis: Any) -> list[str]:
    return [] if axis.categoryarray is None else list(axis.categoryarray)


def _moved(end: Any, before: Sequence[str], after: Sequence[str]) -> Any:
    if not before or not after:
        return end
    place = min(max(round(end), 0), len(before) - 1)
    return end + (after.index(before[place]) - place) if before[place] in after else None


def zoomed(figure: go.Figure, zoom: Zoom) -> go.Figure:
    if not zoom:
        return figure
    axes = {axis: {"range": list(ends), "autorange": False} for axis, ends in zoom.items()}
    return go.Figure(figure).update_layout(axes)
