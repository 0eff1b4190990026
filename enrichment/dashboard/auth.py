"""Signing in: viewers read, operators also make changes.

A user signs in with a password, which stands for a role, or at an OpenID provider, where a setting
lists the e-mail addresses of operators. Without either, every user is an operator, and therefore
the dashboard is then served on loopback only.
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
class User:
    name: str  # as recorded in the audit log
    role: Role


@st.cache_resource(show_spinner=False)
def passwords() -> Mapping[Role, str]:
    """The configured passwords by role."""
    settings = Settings.load()
    by_role: dict[Role, str] = {}
    if settings.enrichment_dashboard_password is not None:
        by_role["operator"] = settings.enrichment_dashboard_password.get_secret_value()
    if settings.enrichment_dashboard_viewer_password is not None:
        by_role["viewer"] = settings.enrichment_dashboard_viewer_password.get_secret_value()
    return by_role


@st.cache_resource(show_spinner=False)
def operators() -> Collection[str]:
    """The e-mail addresses of operators, in lower case."""
    return Settings.load().enrichment_dashboard_operators


def openid_configured() -> bool:
    """Whether users sign in at an OpenID provider: Streamlit's secrets have an [auth] section."""
    return st.secrets.load_if_toml_exists() and "auth" in st.secrets


@st.cache_resource(show_spinner=False)
def _sign_in_not_required() -> bool:
    """Decided once, so that secrets that become unreadable do not open a protected dashboard."""
    protected = bool(passwords()) or openid_configured()
    return not protected and is_loopback(Settings.load().enrichment_dashboard_host)


@st.cache_resource(show_spinner=False)
def _sign_in_limiter() -> RateLimiter:
    """Limits the password attempts of all sessions together."""
    return RateLimiter("dashboard_sign_in", ATTEMPTS_PER_MINUTE, 60, ATTEMPTS_PER_MINUTE)


def role_for(password: str, passwords_by_role: Mapping[Role, str]) -> Role | None:
    """The role that a password stands for. Compares with all of them, in constant time each."""
    roles: list[Role] = [
        role
        for role, expected in passwords_by_role.items()
        if hmac.compare_digest(password.encode(), expected.encode())
    ]
    return roles[0] if roles else None


def user_from_claims(
    claims: Mapping[str, Any], operator_addresses: Collection[str], now: float
) -> User | None:
    """The user that an OpenID provider's identity token names.

    Args:
        claims: Of the token. An address that is marked as not verified makes no operator.
        operator_addresses: In lower case.
        now: Seconds since 1970.

    Returns:
        None if nobody is signed in, or the sign-in is more than 12 hours old.
    """
    if not claims.get("is_logged_in") or now - float(claims.get("iat", 0)) > SIGNED_IN_SECONDS:
        return None
    address = str(claims.get("email") or "")
    verified = claims.get("email_verified", True) is True
    operator = address.lower() in operator_addresses and verified
    return User(address or f"oidc:{claims.get('sub')}", "operator" if operator else "viewer")


def current_user() -> User | None:
    """The user of this session; None before signing in."""
    if openid_configured() and (
        user := user_from_claims(st.user.to_dict(), operators(), time.time())
    ):
        return user
    role: Role | None = st.session_state.get(ROLE)
    if passwords() and role is not None:
        return User(f"{ANONYMOUS}:{role}", role)
    return User(ANONYMOUS, "operator") if _sign_in_not_required() else None


def actor() -> str:
    """The name under which this session's actions are recorded."""
    user = current_user()
    return ANONYMOUS if user is None else user.name


def require_operator() -> None:
    """Raise NotAllowed unless this session's user is an operator."""
    user = current_user()
    if user is None or user.role != "operator":
        raise NotAllowed("viewers can't make changes: sign in as an operator")


def account_menu() -> None:
    """The signed-in user with a button to sign out; nothing where no sign-in is required."""
    user = current_user()
    if user is None or user.name == ANONYMOUS:
        return
    with st.popover(user.name.removeprefix(f"{ANONYMOUS}:"), icon=":material/account_circle:"):
        st.markdown("Can make changes" if user.role == "operator" else "Can view only")
        st.button("Sign out", icon=":material/logout:", on_click=_sign_out)


def require_sign_in() -> None:
    """Show the sign-in form instead of the page until a user has signed in, where required."""
    if current_user() is not None:
        return
    st.title("Market enrichment")
    if openid_configured():
        _openid_buttons()
    if passwords():
        with st.form("sign-in"):
            password = st.text_input("Password", type="password", key="password")
            if st.form_submit_button("Sign in", type="primary"):
                _sign_in(password)
    st.stop()


def _openid_buttons() -> None:
    """A button per provider: each named one has a section of its own within [auth]."""
    sections = [name for name, value in st.secrets["auth"].items() if isinstance(value, Mapping)]
    for name in [section for section in sections if section != "client_kwargs"] or [None]:
        title = f"Sign in with {name}" if name else "Sign in"
        st.button(title, type="primary", icon=":material/login:", on_click=st.login, args=(name,))


def _sign_in(password: str) -> None:
    if not _sign_in_limiter().allow_request():
        st.error("Too many attempts: try again in a minute.", icon=":material/hourglass:")
        return
    role = role_for(password, passwords())
    if role is None:
        st.error("Wrong password.", icon=":material/lock:")
        return
    st.session_state[ROLE] = role
    st.rerun()


def _sign_out() -> None:
    st.session_state.pop(ROLE, None)
    if openid_configured() and st.user.is_logged_in:
        st.logout()
