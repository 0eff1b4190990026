"""Sessions of users who signed in by password: a signed cookie that survives a reload.

The cookie holds the role, when it ends and a random name. It is signed with a key of this
installation and the role's password, so a change of the password ends all its sessions.

>>> sessions = Sessions(b"key", {"operator": "helm"}, clock=lambda: 1000.0)
>>> cookie = sessions.issue("operator")
>>> sessions.role_of(cookie), sessions.role_of(cookie + "0")
('operator', None)
>>> Sessions(b"key", {"operator": "new"}, clock=lambda: 1000.0).role_of(cookie) is None
True
"""

from __future__ import annotations

import hmac
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

Role = Literal["operator", "viewer"]
SIGNED_IN_SECONDS = 12 * 3600
TICKET_SECONDS = 60.0
_MAX_TICKETS = 1000
_MAX_ADDRESSES = 10_000
_KEY_BYTES = 32


class Sessions:
    """Issues and checks cookies.

    Args:
        key: Of this installation.
        passwords: By role.
        clock: Seconds since 1970.
    """

    def __init__(
        self, key: bytes, passwords: Mapping[Role, str], clock: Callable[[], float] = time.time
    ) -> None:
        self._key, self._passwords, self._clock = key, passwords, clock
        self._revoked: dict[str, float] = {}
        self._tickets: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def issue(self, role: Role) -> str:
        """A cookie for 12 hours."""
        content = f"{role}.{self._clock() + SIGNED_IN_SECONDS:.0f}.{secrets.token_hex(16)}"
        return f"{content}.{self._signature(role, content)}"

    def role_of(self, cookie: str) -> Role | None:
        """The role of a valid cookie; None for any other."""
        content, _, signature = cookie.rpartition(".")
        for role in self._passwords:
            expected = self._signature(role, content)
            if hmac.compare_digest(signature.encode(), expected.encode()):
                _, ends, name = content.split(".")
                return role if float(ends) > self._clock() and name not in self._revoked else None
        return None

    def revoke(self, cookie: str) -> None:
        """End a session before its time."""
        if self.role_of(cookie) is not None:
            _, ends, name, _ = cookie.split(".")
            now = self._clock()
            with self._lock:
                self._revoked = {n: end for n, end in self._revoked.items() if end > now}
                self._revoked[name] = float(ends)

    def ticket(self, cookie: str) -> str:
        """A random word that can be exchanged for the cookie once, within a minute.

        A page learns it over its own connection, and hands it in by a request of its browser, to
        which the cookie is the response. So the page's scripts never see the cookie.
        """
        ticket = secrets.token_urlsafe(24)
        with self._lock:
            self._tickets[ticket] = cookie, self._clock() + TICKET_SECONDS
            while len(self._tickets) > _MAX_TICKETS:
                self._tickets.popitem(last=False)
        return ticket

    def redeem(self, ticket: str) -> str | None:
        """The ticket's cookie; None if there is none any more."""
        with self._lock:
            cookie, ends = self._tickets.pop(ticket, ("", 0.0))
        return cookie if ends > self._clock() else None

    def _signature(self, role: str, content: str) -> str:
        password = self._passwords.get(role, "")  # type: ignore[call-overload]  # any text
        key = hmac.digest(self._key, f"{role}\0{password}".encode(), "sha256")
        return hmac.new(key, content.encode(), "sha256").hexdigest()


class SignInDelays:
    """Growing delays for each address after wrong passwords.

    Args:
        free: Wrong attempts before the first delay.
        first: Seconds; doubled with each further wrong attempt.
        longest: Seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        free: int,
        first: float = 60.0,
        longest: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free, self._first, self._longest, self._clock = free, first, longest, clock
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Address → its wrong attempts, and when the next one is allowed."""
        self._lock = threading.Lock()

    def seconds_left(self, address: str) -> float:
        """Until the address may try again; 0 if it may now."""
        with self._lock:
            _, allowed = self._attempts.get(address, (0, 0.0))
        return max(0.0, allowed - self._clock())

    def wrong(self, address: str) -> None:
        """Count a wrong password."""
        with self._lock:
            count = self._attempts.pop(address, (0, 0.0))[0] + 1
            doublings = min(count - self._free, 30)
            delay = min(self._first * 2.0**doublings, self._longest) if doublings >= 0 else 0.0
            self._attempts[address] = count, self._clock() + delay
            while len(self._attempts) > _MAX_ADDRESSES:
                self._attempts.popitem(last=False)

    def right(self, address: str) -> None:
        """Forget the wrong attempts of an address."""
        with self._lock:
            self._attempts.pop(address, None)


def installation_key(home: Path) -> bytes:
    """The key in the home folder, created at first; a new one for this process if it can't be."""
    file = home / "dashboard.key"
    with suppress(OSError):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "wb") as created:
                created.write(secrets.token_bytes(_KEY_BYTES))
        key = file.read_bytes()
        if len(key) == _KEY_BYTES:
            return key
    return secrets.token_bytes(_KEY_BYTES)
