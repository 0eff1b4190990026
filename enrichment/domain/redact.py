"""Masks secrets in texts that are shown, logged or stored.

Masked are the values that the settings hold, wherever they stand, and what looks like a secret by
its place: passwords in URLs, parameters and headers with a telling name, and Slack's webhooks.

>>> redact("can't reach postgresql://me:pass@db/x?password=word&sslmode=require")
"can't reach postgresql://me:***@db/x?password=***&sslmode=require"
>>> redact("GET /v2/aggs?apiKey=abc: 401, Authorization: Bearer abc")
'GET /v2/aggs?apiKey=***: 401, Authorization: Bearer ***'
"""

from __future__ import annotations

import logging
import re
import threading
import traceback
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from enrichment.domain.escape import for_terminal

_log = logging.getLogger(__name__)
MASK = "***"
_MIN_CHARS = 4  # of a value that is masked wherever it stands
_LONG_CHARS = 8  # from which on a value is masked within words, too
_WEBHOOK_CHARS = 16  # of a part of a webhook's path that may be a secret
_NAME_END = (  # searched for without what a name begins with, which would cost most of the time
    r"(?:passw(?:or)?d|pwd|passphrase|secret|token|api[_\-]?key|access[_\-]?key|"
    r"routing[_\-]?key|private[_\-]?key|signature|credential)[\w.\-]{0,40}"
)
_NAME = rf"[\w.\-]{{0,40}}{_NAME_END}"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # https://user:password@host, also with an @ in the password; not the PASSWORD of an example
    (
        re.compile(
            r"(?i)\b([a-z][a-z0-9+.\-]{0,20}://[^\s:/?#@'\"]*):(?!(?-i:PASSWORD)@)([^\s/'\"]+)@"
        ),
        rf"\1:{MASK}@",
    ),
    (re.compile(r"(?i)(hooks\.slack\.com(?::\d+)?)/[^\s'\")\]]+"), rf"\1/{MASK}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w\-.~+/]+=*"), rf"\1 {MASK}"),
    # name='value', "name": "value"
    (
        re.compile(rf"(?i)({_NAME_END}[\"']?\s?[:=]\s?[bur]?)(['\"])(?:\\.|(?!\2).)*\2"),
        rf"\1\2{MASK}\2",
    ),
    # name=value, as in a query or a libpq connection string
    (
        re.compile(rf"(?i)({_NAME_END}=)(?!['\"]|\*\*\*)[^\s&;,'\")\]}}]*[^\s&;,:.'\")\]}}]"),
        rf"\1{MASK}",
    ),
    (re.compile(r"(?i)([?&](?:key|sig|auth|code)=)(?!\*\*\*)[^\s&#;'\")\]]+"), rf"\1{MASK}"),
    # a header on a line of its own
    (re.compile(rf"(?im)(^{_NAME}: )(?!\*\*\*)\S+$"), rf"\1{MASK}"),
)


class Redactor:
    """Masks the values that it was told, and what the patterns find."""

    def __init__(self) -> None:
        self._values: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self._lock = threading.Lock()

    def add(self, *secrets: str) -> None:
        """Mask these values from now on, as they are and as a URL writes them."""
        forms = {
            form
            for secret in secrets
            for form in (secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1])
            if len(form) >= _MIN_CHARS
        }
        with self._lock:
            self._values |= forms
            longest_first = sorted(self._values, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(_pattern_of, longest_first))) if forms else None

    def add_url(self, url: str, *, secret_path: bool = False) -> None:
        """Mask the secrets of a URL. secret_path: also the URL itself, as for a webhook."""
        try:
            parts = urlsplit(url)
        except ValueError:
            self.add(url)
            return
        secrets = [unquote(parts.password or "")]
        for name, value in parse_qsl(parts.query):
            if secret_path or re.fullmatch(f"(?i){_NAME}", name):
                secrets.append(value)
        if secret_path:
            secrets += [url, *(p for p in parts.path.split("/") if len(p) >= _WEBHOOK_CHARS)]
        self.add(*secrets)

    def redact(self, text: str) -> str:
        """The text with *** in the place of each secret."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


def _pattern_of(value: str) -> str:
    escaped = re.escape(value)
    return escaped if len(value) >= _LONG_CHARS else rf"(?<!\w){escaped}(?!\w)"


redactor = Redactor()
"""The one of this process; the settings tell it their secrets as they are loaded."""


def redact(text: str) -> str:
    """The text with its secrets masked by the process's redactor."""
    return redactor.redact(text)


def redact_logs() -> None:
    """Mask the secrets in every record that this process logs from now on, tracebacks included."""
    make = logging.getLogRecordFactory()

    def make_redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        with suppress(TypeError, ValueError, KeyError):  # logging reports wrong arguments itself
            record.msg, record.args = for_terminal(redact(record.getMessage())), ()
        if record.exc_info and record.exc_info[1] is not None:
            lines = traceback.format_exception(record.exc_info[1])
            record.exc_text = for_terminal(redact("".join(lines))).rstrip()
        return record

    def log_uncaught(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else "unknown"
        _log.critical("the thread %s ended with an error", name, exc_info=args.exc_value)

    logging.setLogRecordFactory(make_redacted)
    threading.excepthook = log_uncaught
