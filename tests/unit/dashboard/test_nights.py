"""The calendar of nightly runs."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import pandas as pd

from enrichment.dashboard.charts.nights import OUTCOMES, calendar, outcome_of
from enrichment.domain.schedules import WEEKDAYS
from enrichment.domain.statuses import JobState
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
    """(week, weekday) → sign, colour, tooltip."""
    return {
        (x[:10], y): (sign, trace["marker"]["color"], tooltip)
        for trace in json.loads(figure.to_json())["data"]
        for x, y, sign, tooltip in zip(
            trace["x"], trace["y"], trace["text"], trace["customdata"], strict=True
        )
    }


def test_each_date_is_a_square_in_its_week_with_sign_colour_and_tooltip() -> None:
    shown = squares(calendar(nights("completed", "partial", *["missed"] * 6)))
    assert set(shown) == {("2026-03-02", day) for day in WEEKDAYS} | {("2026-03-09", "Mon")}
    sign, colour, tooltip = shown["2026-03-02", "Tue"]
    assert (sign, colour) == OUTCOMES["partial"][:2]
    assert tooltip == (
        "<b>Tue 03 Mar 2026</b><br>some symbols failed<br>10 symbols successful, 2 failed"
        "<br>took 61 s<br>started 120 min late"
    )
    assert shown["2026-03-09", "Mon"][2] == "<b>Mon 09 Mar 2026</b><br>no run"


def test_outcomes_differ_in_sign_and_not_only_in_colour() -> None:
    signs = [OUTCOMES[state][0] for state in ("missed", "completed", "partial", "failed", "manual")]
    assert len(set(signs)) == len(signs)


def test_every_job_state_has_an_outcome() -> None:
    assert {outcome_of(state) for state in JobState} <= OUTCOMES.keys()


def test_dates_before_the_first_run_are_not_in_the_legend() -> None:
    figure = json.loads(calendar(nights("before", "completed")).to_json())
    assert [trace["showlegend"] for trace in figure["data"]] == [False, True]
