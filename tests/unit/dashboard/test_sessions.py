"""Signed session cookies, tickets for them, and delays after wrong passwords."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.dashboard.sessions import (
    SIGNED_IN_SECONDS,
    TICKET_SECONDS,
    Role,
    Sessions,
    SignInDelays,
    installation_key,
)

PASSWORDS: dict[Role, str] = {"operator": "helm", "viewer": "glass"}


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(b"key", PASSWORDS, clock)


@pytest.mark.parametrize("role", PASSWORDS)
def test_a_cookie_names_its_role_for_twelve_hours(
    sessions: Sessions, clock: Clock, role: Role
) -> None:
    cookie = sessions.issue(role)
    clock.now += SIGNED_IN_SECONDS - 1
    assert sessions.role_of(cookie) == role
    clock.now += 1
    assert sessions.role_of(cookie) is None


@given(st.text(max_size=80))
def test_no_other_text_is_a_cookie(text: str) -> None:
    assert Sessions(b"key", PASSWORDS).role_of(text) is None


@given(st.data())
def test_no_changed_cookie_is_one(data: st.DataObject) -> None:
    sessions = Sessions(b"key", PASSWORDS)
    cookie = sessions.issue("viewer")
    position = data.draw(st.integers(0, len(cookie) - 1))
    changed = data.draw(st.sampled_from("0123456789abcdef.viewroptl"))
    forged = cookie[:position] + changed + cookie[position + 1 :]
    assert forged == cookie or sessions.role_of(forged) is None
    assert sessions.role_of(cookie.replace("viewer", "operator")) is None


def test_a_new_password_ends_the_sessions_of_its_role_only(clock: Clock) -> None:
    before = Sessions(b"key", PASSWORDS, clock)
    operator, viewer = before.issue("operator"), before.issue("viewer")
    after = Sessions(b"key", {"operator": "rudder", "viewer": "glass"}, clock)
    assert (after.role_of(operator), after.role_of(viewer)) == (None, "viewer")
    assert Sessions(b"key", {"viewer": "glass"}, clock).role_of(operator) is None
    assert Sessions(b"other", PASSWORDS, clock).role_of(operator) is None


def test_a_revoked_session_is_over_and_others_are_not(sessions: Sessions) -> None:
    first, second = sessions.issue("operator"), sessions.issue("operator")
    sessions.revoke(first)
    sessions.revoke("nonsense")
    assert (sessions.role_of(first), sessions.role_of(second)) == (None, "operator")


def test_a_ticket_is_exchanged_once_within_a_minute(sessions: Sessions, clock: Clock) -> None:
    cookie = sessions.issue("operator")
    ticket, late = sessions.ticket(cookie), sessions.ticket(cookie)
    assert (sessions.redeem(ticket), sessions.redeem(ticket)) == (cookie, None)
    clock.now += TICKET_SECONDS
    assert sessions.redeem(late) is None
    assert sessions.redeem("guess") is None


def test_wrong_passwords_delay_their_address_and_no_other(clock: Clock) -> None:
    delays = SignInDelays(3, first=60.0, longest=600.0, clock=clock)
    seconds = []
    for _ in range(8):
        clock.now += delays.seconds_left("a")
        delays.wrong("a")
        seconds.append(delays.seconds_left("a"))
    assert seconds == [0, 0, 60, 120, 240, 480, 600, 600]
    assert delays.seconds_left("b") == 0
    delays.right("a")
    assert delays.seconds_left("a") == 0


def test_the_addresses_are_bounded(clock: Clock) -> None:
    delays = SignInDelays(1, clock=clock)
    for number in range(20_000):
        delays.wrong(str(number))
    assert delays.seconds_left("0") == 0
    assert delays.seconds_left("19999") > 0


def test_the_key_stays_and_is_private(tmp_path: Path) -> None:
    key = installation_key(tmp_path / "home")
    assert installation_key(tmp_path / "home") == key
    assert len(key) == 32
    assert stat.S_IMODE((tmp_path / "home" / "dashboard.key").stat().st_mode) == 0o600
    (tmp_path / "home" / "dashboard.key").write_bytes(b"")
    assert len(installation_key(tmp_path / "home")) == 32
