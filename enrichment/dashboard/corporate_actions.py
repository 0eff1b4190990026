"""The corporate actions of one symbol: their list, what operators state, and marks for charts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pandas as pd
import streamlit as st

from enrichment.dashboard.auth import actor, is_operator
from enrichment.dashboard.components import WIDE_TEXT, button_with_reason, run_command, table
from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.services import commands, services
from enrichment.domain.calendars import market_of
from enrichment.domain.corporate_actions import ActionKind, first_starts
from enrichment.domain.errors import InvalidRequest
from enrichment.domain.model import AssetClass, Timeframe
from enrichment.domain.plurals import counted
from enrichment.warehouse.read_models.corporate_actions import ListedAction

MAX_ACTIONS = 1_000
APPLICABLE = [kind for kind in ActionKind if kind.changes_shares or kind.pays]


@cached_read
def read_actions(symbol: str) -> list[ListedAction]:
    """A symbol's actions, the latest first, withdrawn ones too."""
    return services().reader.corporate_actions.listed(MAX_ACTIONS, symbol=symbol)


def chart_events(actions: Sequence[ListedAction], timeframe: Timeframe) -> pd.DataFrame:
    """The splits and dividends that apply, for `candlestick`: columns ts, kind, text."""
    applied = [action for action in actions if action.applies]
    days = np.array([action.effective_date for action in applied], "datetime64[us]")
    market = market_of(applied[0].symbol if applied else "", AssetClass.STOCK)
    return pd.DataFrame(
        {
            "ts": pd.to_datetime(first_starts(days, timeframe, market), utc=True),
            "kind": [
                "split" if ActionKind(action.kind).changes_shares else "dividend"
                for action in applied
            ],
            "text": [
                f"{action.kind.replace('_', ' ')} of {action.effective_date}: {action.value}"
                for action in applied
            ],
        }
    )


def actions_list(symbol: str) -> None:
    """A symbol's actions, and what operators can state about them."""
    actions = read_actions(symbol)
    applied = sum(action.applies for action in actions)
    title = f"{counted(len(actions), 'corporate action')}, {applied:,} applied"
    with st.expander(title, key="corporate-actions", on_change="rerun"):
        if actions:
            table(action_rows(actions), {"note": WIDE_TEXT}, key="actions")
        if is_operator():
            _statements(symbol)


def action_rows(actions: Sequence[ListedAction]) -> list[dict[str, object]]:
    return [
        {
            "date": action.effective_date,
            "kind": action.kind,
            "value": action.value,
            "source": ", ".join(action.sources),
            "applied": action.applies,
            "note": action.note,
        }
        for action in actions
    ]


def _statements(symbol: str) -> None:
    """Adding, refuting and restoring the action of a day."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Kind", [kind.value for kind in APPLICABLE], key="action-kind", width=180)
        st.date_input("Execution date or ex-date", value=None, key="action-day", width=200)
        st.number_input(
            "New shares for one, or amount for one share",
            min_value=0.0,
            value=None,
            format="%g",
            key="action-value",
            width=300,
        )
    with st.container(horizontal=True):
        button_with_reason(
            "Add",
            "Adds the action, or corrects what vendors report of it.",
            lambda reason: _state("add", symbol, reason),
            key="add-action",
        )
        button_with_reason(
            "Refute",
            "The action did not take place, whatever vendors report.",
            lambda reason: _state("refute", symbol, reason),
            key="refute-action",
        )
        button_with_reason(
            "Restore",
            "What was added or refuted here is taken back: the vendors' account applies again.",
            lambda reason: _state("restore", symbol, reason),
            key="restore-action",
        )


def _state(what: str, symbol: str, reason: str) -> None:
    kind, day = ActionKind(st.session_state["action-kind"]), st.session_state.get("action-day")
    value = st.session_state.get("action-value")
    run_command(
        lambda: _command(what, symbol, kind, day, value, reason),
        f"{symbol}: {kind.value.replace('_', ' ')} of {day}: {what} recorded",
    )


def _command(
    what: str, symbol: str, kind: ActionKind, day: date | None, value: float | None, reason: str
) -> None:
    if day is None:
        raise InvalidRequest("choose the day of the action")
    if what == "add":
        ratio, amount = (value, None) if kind.changes_shares else (None, value)
        commands().add_action(
            symbol, kind, day, ratio=ratio, amount=amount, reason=reason, actor=actor()
        )
    elif what == "refute":
        commands().refute_action(symbol, kind, day, reason=reason, actor=actor())
    else:
        commands().restore_action(symbol, kind, day, reason=reason, actor=actor())
