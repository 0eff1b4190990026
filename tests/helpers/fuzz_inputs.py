"""200 hostile values for any parameter: injections, paths, numbers, times, characters."""

from __future__ import annotations

import itertools

_INJECTIONS = [
    "'; DROP TABLE bars; --",
    "' OR '1'='1",
    '" OR ""="',
    "1; SELECT pg_sleep(10)",
    "1 UNION SELECT usename, passwd FROM pg_shadow",
    "AAPL'||(SELECT 1)||'",
    "$$; COPY bars TO PROGRAM 'sh'; $$",
    "%(symbol)s",
    ":symbol",
    "{{7*7}}",
    "{0.__class__}",
    "${jndi:ldap://127.0.0.1/a}",
    "<script>alert(1)</script>",
    "`id`",
    "$(id)",
    "|| sleep 5",
    "*",
    "=HYPERLINK('x')",
]
_PATHS = ["..", "../../etc/passwd", "..%2f..%2f", "/etc/passwd", "C:\\x", "//", ".", "file:///x"]
_NUMBERS = [
    *("0", "-1", "-0", "1e309", "-1e309", "NaN", "Infinity", "-inf", "0x10", "1_000", "1,5", "+1"),
    *("9223372036854775807", "9223372036854775808", "2147483648", "0.1", "1.", ".1", "1e-400"),
    *("9" * 400, "٣", "１", "½", "1 ", " 1", "1\n", "00000000000000000001", "true", "null"),
]
_TIMES = [
    *("0000-00-00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2024-02-30"),
    *("2024-01-01T25:00:00Z", "2024-01-01T00:00:60Z", "now()", "infinity", "epoch", "yesterday"),
    *("2024-W01-1", "20240101", "2024-01-01T00:00:00+99:99", "2024-01-01 00:00:00", "1/1/2024"),
]
_CHARACTERS = [
    *("\0", "a\0b", "\x01", "\x1b[31m", "\r\nSet-Cookie: a=b", "\n", "\t", "\x7f", "\x85"),
    *("\u202e", "\u200b", "\ufeff", "\ufffe", "\uffff", "💥", "e\u0301" * 40, "ß", "İ", "ſ"),
    *("\N{KELVIN SIGN}", "Ａ", "𝟙", "\U0010ffff", "A" * 26, "A" * 501, "A" * 5000, ""),
]
_SHAPES = [
    *(
        "[]",
        "{}",
        "[1]",
        '{"a": 1}',
        "a,b",
        "a|b",
        "a;b",
        "a&b=c",
        "a=b",
        "?",
        "#",
        "%",
        "%zz",
        "%00",
    ),
    *(
        "__proto__",
        "constructor",
        "None",
        "undefined",
        "AAPL,MSFT",
        "aapl",
        "X:",
        ":",
        "-",
        "@",
        "!",
    ),
]
_ALL = [*_INJECTIONS, *_PATHS, *_NUMBERS, *_TIMES, *_CHARACTERS, *_SHAPES]
_COMBINED = (f"{first}{second}" for first, second in itertools.product(_INJECTIONS, _CHARACTERS))

INPUTS = [*_ALL, *itertools.islice(_COMBINED, 200 - len(_ALL))]
