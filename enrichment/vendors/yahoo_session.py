"""The cookie and the crumb that Yahoo asks some clients for.

They are fetched when an answer is 401 for the first time, and anew when Yahoo does not accept them
any more: the cookie from an address that answers 404 but sets it, then the crumb that goes with it.
Both are sent with each request from then on.

>>> cookie_of("A3=d=AQAB; Expires=Sun, 28 Nov 2027 18:00:00 GMT; Path=/, A1=x; Secure")
'A3=d=AQAB; A1=x'
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock

from enrichment.domain.errors import AccessDenied, ProviderError
from enrichment.vendors.http import HttpClient, JsonResponse

_MIN_SECONDS_BETWEEN_RENEWALS = 300.0
_COOKIE = re.compile(r"(?:^|,)\s*([A-Za-z0-9_]+=[^;,]*)")
_CRUMB = re.compile(r"[!-;=?-~]{1,64}")  # printable, neither HTML nor a sentence
_CRUMB_PATH = "/v1/test/getcrumb"


@dataclass(frozen=True, slots=True)
class _Key:
    cookie: str
    crumb: str


class YahooSession:
    """Sends requests, with cookie and crumb once Yahoo has asked for them.

    Args:
        client: Of Yahoo's API.
        cookie_url: Where the cookie is set.
        clock: Monotonic seconds.
    """

    def __init__(
        self, client: HttpClient, cookie_url: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._cookies, self._clock = client, client.at(cookie_url), clock
        self._lock = Lock()
        self._key: _Key | None = None
        self._next_renewal = clock()

    def get_json(self, path: str, params: Mapping[str, str | int]) -> JsonResponse:
        """GET JSON.

        Raises:
            ProviderError: As by the client; AccessDenied if cookie and crumb did not help.
        """
        key = self._key
        try:
            return self._get(path, params, key)
        except AccessDenied as exc:
            if exc.http_status != 401 or not self._renewed(key, exc):
                raise
        return self._get(path, params, self._key)

    def _get(self, path: str, params: Mapping[str, str | int], key: _Key | None) -> JsonResponse:
        if key is None:
            return self._client.get_json(path, params)
        headers = {"Cookie": key.cookie}
        return self._client.get_json(path, {**params, "crumb": key.crumb}, headers=headers)

    def _renewed(self, refused: _Key | None, cause: AccessDenied) -> bool:
        """Whether there is another key than the one that was refused."""
        with self._lock:
            if self._key is refused and self._clock() >= self._next_renewal:
                self._next_renewal = self._clock() + _MIN_SECONDS_BETWEEN_RENEWALS
                try:
                    self._key = self._fetched()
                except ProviderError as exc:
                    raise AccessDenied(f"{cause}; {exc}", cause.status, 401) from exc
            return self._key is not refused

    def _fetched(self) -> _Key:
        cookie = cookie_of(self._cookies.get_text("/").headers.get("Set-Cookie", ""))
        if not cookie:
            raise AccessDenied("no cookie was set to ask for a crumb with")
        answer = self._client.get_text(_CRUMB_PATH, {"Cookie": cookie})
        if answer.status != 200 or not _CRUMB.fullmatch(answer.text):
            raise AccessDenied(f"{_CRUMB_PATH} answered {answer.status} without a crumb")
        return _Key(cookie, answer.text)


def cookie_of(set_cookie: str) -> str:
    """The Cookie header for the cookies that a response sets."""
    return "; ".join(_COOKIE.findall(set_cookie))
