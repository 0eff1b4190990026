"""Who is looking: viewers read, operators also act.

A person signs in with a password, which stands for a role, or at an OpenID provider, where the
setting of operators' addresses says who is one. Without either whoever reaches the page is an
operator, which is why it is served on loopback only.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from enrichment.config import Settings
from enrichment.domain.errors import NotAllowed
from enrichment.net import is_loopback
from resilience import RateLimiter

Role = Literal["operator", "viewer"]
ROLE = "role"
ATTEMPTS_PER_MINUTE = 10
SIGNED_IN_SECONDS = 12 * 3600
ANONYMOUS = "dashboard"


@dataclass(frozen=True, slots=True)
class Person:
    """Who acts, by the name that the audit keeps."""

    name: str
    role: Role


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
def operators() -> Collection[str]:
    """The addresses of those who may act, in lower case."""
    return Settings.load().enrichment_dashboard_operators


def openid() -> bool:
    """Whether people sign in at an OpenID provider: Streamlit's secrets have an [auth] section."""
    return st.secrets.load_if_toml_exists() and "auth" in st.secrets


@st.cache_resource(show_spinner=False)
def _is_open() -> bool:
    """Decided once, so that secrets which can't be read any more do not open what was closed."""
    closed = bool(passwords()) or openid()
    return not closed and is_loopback(Settings.load().enrichment_dashboard_host)


@st.cache_resource(show_spinner=False)
def _attempts() -> RateLimiter:
    """How often all sessions together may try a password."""
    return RateLimiter("dashboard_sign_in", ATTEMPTS_PER_MINUTE, 60, ATTEMPTS_PER_MINUTE)


def role_of(given: str, known: Mapping[Role, str]) -> Role | None:
    """The role that a password stands for. All are compared, each in constant time."""
    fits: list[Role] = [
        role
        for role, password in known.items()
        if hmac.compare_digest(given.encode(), password.encode())
    ]
    return fits[0] if fits else None


def person_from_claims(
    claims: Mapping[str, Any], allowed: Collection[str], now: float
) -> Person | None:
    """The person that a provider vouches for; None once the sign-in is 12 hours old.

    claims: of the identity token. An address that the provider has not verified makes no operator.
    now: seconds since 1970.
    """
    if not claims.get("is_logged_in") or now - float(claims.get("iat", 0)) > SIGNED_IN_SECONDS:
        return None
    address = str(claims.get("email") or "")
    operator = address.lower() in allowed and claims.get("email_verified", True) is True
    return Person(address or f"oidc:{claims.get('sub')}", "operator" if operator else "viewer")


def person() -> Person | None:
    """Who this session is; None before signing in."""
    if openid() and (found := person_from_claims(st.user.to_dict(), operators(), time.time())):
        return found
    role: Role | None = st.session_state.get(ROLE)
    if passwords() and role is not None:
        return Person(f"{ANONYMOUS}:{role}", role)
    return Person(ANONYMOUS, "operator") if _is_open() else None


def actor() -> str:
    """The name that this session's actions are recorded by."""
    found = person()
    return ANONYMOUS if found is None else found.name


def require_operator() -> None:
    """NotAllowed unless this session may act."""
    found = person()
    if found is None or found.role != "operator":
        raise NotAllowed("this session may look, not change anything: sign in as an operator")


def account_menu() -> None:
    """Who is signed in, and the way out; nothing where nobody has to."""
    found = person()
    if found is None or found.name == ANONYMOUS:
        return
    name = found.name.removeprefix(f"{ANONYMOUS}:")
    with st.popover(name, icon=":material/account_circle:"):
        st.markdown("May look and act" if found.role == "operator" else "May look, not act")
        st.button("Sign out", icon=":material/logout:", on_click=_sign_out)


def require_sign_in() -> None:
    """Ask who it is, where that matters, before anything is shown."""
    if person() is not None:
        return
    st.title("Market enrichment")
    if openid():
        _openid_buttons()
    if passwords():
        with st.form("sign-in"):
            given = st.text_input("Password", type="password", key="password")
            if st.form_submit_button("Sign in", type="primary"):
                _sign_in(given)
    st.stop()


def _openid_buttons() -> None:
    """A button for each provider: named ones have a section of their own within [auth]."""
    named = [name for name, value in st.secrets["auth"].items() if isinstance(value, Mapping)]
    for name in [n for n in named if n != "client_kwargs"] or [None]:
        label = f"Sign in with {name}" if name else "Sign in"
        st.button(label, type="primary", icon=":material/login:", on_click=st.login, args=(name,))


def _sign_in(given: str) -> None:
    if not _attempts().allow_request():
        st.error("Too many tries: wait a minute.", icon=":material/hourglass:")
        return
    found = role_of(given, passwords())
    if found is None:
        st.error("This is not the password.", icon=":material/lock:")
        return
    st.session_state[ROLE] = found
    st.rerun()


def _sign_out() -> None:
    st.session_state.pop(ROLE, None)
    if openid() and st.user.is_logged_in:
        st.logout()
