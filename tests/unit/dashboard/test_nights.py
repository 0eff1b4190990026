"""The calendar of nights, by its JSON."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import pandas as pd

from enrichment.dashboard.charts.nights import STATES, WEEKDAYS, calendar, state_of
from enrichment.warehouse.read_models.overview import Night

MONDAY = date(2026, 3, 2)


def nights(*states: str) -> pd.DataFrame:
    return pd.DataFrame(
        [
            Night(
                MONDAY + timedelta(days=n),
                state,
                *((10, 2, 61.0, 7200.0) if state == "partial" else (None, None, None, None)),
            )
            for n, state in enumerate(states)
        ]
    )


def squares(figure: Any) -> dict[tuple[str, str], tuple[str, str, str]]:
    """(week, weekday) → sign, colour, words."""
    return {
        (x[:10], y): (sign, trace["marker"]["color"], told)
        for trace in json.loads(figure.to_json())["data"]
        for x, y, sign, told in zip(
            trace["x"], trace["y"], trace["text"], trace["customdata"], strict=True
        )
    }


def test_each_date_is_a_square_in_its_week_with_sign_colour_and_words() -> None:
    found = squares(calendar(nights("completed", "partial", *["missed"] * 6)))
    assert set(found) == {("2026-03-02", day) for day in WEEKDAYS} | {("2026-03-09", "Mon")}
    sign, colour, told = found["2026-03-02", "Tue"]
    assert (sign, colour) == STATES["partial"][:2]
    assert told == (
        "<b>Tue 03 Mar 2026</b><br>some symbols failed<br>10 symbols successful, 2 failed"
        "<br>took 61 s<br>began 120 min late"
    )
    assert found["2026-03-09", "Mon"][2] == "<b>Mon 09 Mar 2026</b><br>nothing ran"


def test_states_differ_in_sign_and_not_in_colour_alone() -> None:
    signs = [STATES[state][0] for state in ("missed", "completed", "partial", "failed", "manual")]
    assert len(set(signs)) == len(signs)


def test_every_state_of_a_job_has_its_square() -> None:
    states = ("queued", "running", "completed", "partial", "failed", "cancelled")
    assert {state_of(state) for state in states} <= STATES.keys()


def test_dates_before_the_first_run_have_no_legend() -> None:
    figure = json.loads(calendar(nights("before", "completed")).to_json())
    assert [trace["showlegend"] for trace in figure["data"]] == [False, True]
