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
from typing import Any

import streamlit as st

from enrichment.config import Settings
from enrichment.dashboard.requests import COOKIE, SESSION_PATH
from enrichment.dashboard.sessions import (
    SIGNED_IN_SECONDS,
    Role,
    Sessions,
    SignInDelays,
    installation_key,
)
from enrichment.domain.errors import NotAllowed
from enrichment.domain.escape import for_markdown
from enrichment.net import is_loopback

SESSION = "session"
ATTEMPTS_PER_MINUTE = 10  # wrong ones of an address, before it has to wait
ANONYMOUS = "dashboard"
_TICKET = "session-ticket"


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
def _delays() -> SignInDelays:
    """The wrong passwords of all sessions, by address."""
    return SignInDelays(ATTEMPTS_PER_MINUTE)


@st.cache_resource(show_spinner=False)
def sessions() -> Sessions:
    """The sessions of users who signed in by password."""
    return Sessions(installation_key(Settings.load().enrichment_home), passwords())


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
    role = sessions().role_of(_session_cookie()) if passwords() else None
    if role is not None:
        return User(f"{ANONYMOUS}:{role}", role)
    return User(ANONYMOUS, "operator") if _sign_in_not_required() else None


def _session_cookie() -> str:
    """The cookie of this session, or the one that the browser sent with its connection."""
    cookie = st.session_state.get(SESSION) or st.context.cookies.get(COOKIE)
    return cookie if isinstance(cookie, str) else ""


def is_operator() -> bool:
    """Whether this session's user may make changes."""
    user = current_user()
    return user is not None and user.role == "operator"


def actor() -> str:
    """The name under which this session's actions are recorded."""
    user = current_user()
    return ANONYMOUS if user is None else user.name


def require_operator() -> None:
    """Raise NotAllowed unless this session's user is an operator."""
    if not is_operator():
        raise NotAllowed("viewers can't make changes: sign in as an operator")


def account_menu() -> None:
    """The signed-in user with a button to sign out; nothing where no sign-in is required."""
    user = current_user()
    if user is None or user.name == ANONYMOUS:
        return
    with st.popover(
        for_markdown(user.name.removeprefix(f"{ANONYMOUS}:")), icon=":material/account_circle:"
    ):
        st.markdown("Can make changes" if user.role == "operator" else "Can view only")
        st.button("Sign out", icon=":material/logout:", on_click=_sign_out)


def require_sign_in() -> None:
    """Show the sign-in form instead of the page until a user has signed in, where required."""
    _run_in_browser(st.session_state.pop(_TICKET, None))
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


def _run_in_browser(ticket: str | None) -> None:
    """Let the browser exchange a ticket for its cookie, or drop the cookie if it is empty."""
    if ticket is not None:
        request = f'{{method: "POST", body: "{ticket}"}}' if ticket else '{method: "DELETE"}'
        path = SESSION_PATH.removeprefix("/")  # relative: a proxy may serve it below a prefix
        script = f'<script>fetch("{path}", {request})</script>'
        st.html(script, unsafe_allow_javascript=True)


def _openid_buttons() -> None:
    """A button per provider: each named one has a section of its own within [auth]."""
    sections = [name for name, value in st.secrets["auth"].items() if isinstance(value, Mapping)]
    for name in [section for section in sections if section != "client_kwargs"] or [None]:
        title = f"Sign in with {name}" if name else "Sign in"
        st.button(title, type="primary", icon=":material/login:", on_click=st.login, args=(name,))


def _sign_in(password: str) -> None:
    found = st.context.ip_address
    address = found if isinstance(found, str) else "this machine"
    if left := _delays().seconds_left(address):
        wait = "a minute" if left <= 60 else f"{left / 60:.0f} minutes"
        st.error(f"Too many attempts: try again in {wait}.", icon=":material/hourglass:")
        return
    role = role_for(password, passwords())
    if role is None:
        _delays().wrong(address)
        st.error("Wrong password.", icon=":material/lock:")
        return
    _delays().right(address)
    cookie = sessions().issue(role)
    st.session_state[SESSION] = cookie
    st.session_state[_TICKET] = sessions().ticket(cookie)
    st.rerun()


def _sign_out() -> None:
    sessions().revoke(_session_cookie())
    st.session_state.pop(SESSION, None)
    st.session_state[_TICKET] = ""
    if openid_configured() and st.user.is_logged_in:
        st.logout()
