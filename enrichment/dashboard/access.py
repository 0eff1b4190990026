"""Who is looking: viewers read, operators also act. Without a password whoever reaches the page is
an operator, which is why it is served on loopback only.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Literal

import streamlit as st

from enrichment.config import Settings
from enrichment.errors import NotAllowed
from resilience import RateLimiter

Role = Literal["operator", "viewer"]
ROLE = "role"
TRIES_A_MINUTE = 10


@st.cache_resource(show_spinner=False)
def passwords() -> Mapping[Role, str]:
    """The passwords that are set, by role."""
    settings = Settings.load()
    found: dict[Role, str] = {}
    if settings.enrichment_dashboard_password is not None:
        found["operator"] = settings.enrichment_dashboard_password.get_secret_value()
    if settings.enrichment_dashboard_viewer_password is not None:
        found["viewer"] = settings.enrichment_dashboard_viewer_password.get_secret_value()
    return found


@st.cache_resource(show_spinner=False)
def _tries() -> RateLimiter:
    """How often all sessions together may try a password."""
    return RateLimiter("dashboard_sign_in", TRIES_A_MINUTE, 60, TRIES_A_MINUTE)


def role_of(given: str, known: Mapping[Role, str]) -> Role | None:
    """The role that a password stands for. All are compared, each in constant time."""
    fits: list[Role] = [
        role
        for role, password in known.items()
        if hmac.compare_digest(given.encode(), password.encode())
    ]
    return fits[0] if fits else None


def role() -> Role | None:
    """This session's role; None before it has signed in."""
    return st.session_state.get(ROLE) if passwords() else "operator"


def require_operator() -> None:
    """NotAllowed unless this session may act."""
    if role() != "operator":
        raise NotAllowed("this session may look, not change anything: sign in as an operator")


def gate() -> None:
    """Ask for a password, where there is one, before anything is shown."""
    if role() is not None:
        if passwords():
            st.sidebar.caption(f"signed in as {role()}")
            st.sidebar.button("Sign out", on_click=lambda: st.session_state.pop(ROLE, None))
        return
    st.title("Market enrichment")
    with st.form("sign-in"):
        given = st.text_input("Password", type="password", key="password")
        if st.form_submit_button("Sign in", type="primary"):
            _sign_in(given)
    st.stop()


def _sign_in(given: str) -> None:
    if not _tries().allow_request():
        st.error("Too many tries: wait a minute.", icon=":material/hourglass:")
        return
    found = role_of(given, passwords())
    if found is None:
        st.error("This is not the password.", icon=":material/lock:")
        return
    st.session_state[ROLE] = found
    st.rerun()
