"""Texts of others, made harmless for each place where they are shown.

>>> for_terminal("a\\x1b[31mred\\x07 line\\u202e")
'a[31mred line'
>>> for_markdown("![x](http://tracker/p.png) **now** :red[hot]")
'\\\\!\\\\[x\\\\]\\\\(http\\\\://tracker/p.png\\\\) \\\\*\\\\*now\\\\*\\\\* \\\\:red\\\\[hot\\\\]'
>>> for_csv("=HYPERLINK(\\"http://x\\")")
'\\'=HYPERLINK("http://x")'
"""

from __future__ import annotations

import re
import unicodedata

# C0 except tab and newline, C1, and what reorders or hides text
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-!|:$~&])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def for_terminal(text: str) -> str:
    """Without control characters except tab and newline, so that no terminal obeys the text."""
    return _CONTROLS.sub("", text)


def for_markdown(text: str) -> str:
    """One line that Markdown shows as it is: no link, image, emphasis, colour, formula or HTML."""
    return _MARKDOWN.sub(r"\\\1", " ".join(for_terminal(text).split()))


def for_csv(text: str) -> str:
    """With an apostrophe before what a spreadsheet would take for a formula."""
    shown = unicodedata.normalize("NFKC", text.lstrip(" "))
    return f"'{text}" if shown.startswith(_FORMULA) else text
