"""Texts of others, made harmless for each place where they are shown.

>>> for_terminal("a\\x1b[31mred\\x07 line\\u202e")
'a[31mred line'
>>> print(for_markdown("![x](p.png) *now* polygon_api :red[hot]"))
!\\[x\\](p.png) \\*now\\* polygon_api :red\\[hot\\]
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
_MARKDOWN = re.compile(
    r"([\\`*\[\]<$~&|]|(?<!\w)_|_(?!\w)"  # emphasis, code, links, HTML, formulas, tables
    r"|^[#>+\-=]|(?<=^\d)[.)])"  # headings, lists
)
_NAMES = re.compile(r"(?<=:)(?=//|[a-z+\-][\w+\-/]*:)|(?<=\bwww)(?=\.)")
_WORD_JOINER = "\u2060"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def for_terminal(text: str) -> str:
    """Without control characters except tab and newline, so that no terminal obeys the text."""
    return _CONTROLS.sub("", text)


def for_markdown(text: str) -> str:
    """One line that Markdown shows as it is: no link, image, emphasis, colour, formula or HTML.

    Addresses, emoji and icons are looked for in the text that Markdown has already unescaped, so
    an invisible character breaks them.
    """
    line = _MARKDOWN.sub(r"\\\1", " ".join(for_terminal(text).split()))
    return _NAMES.sub(_WORD_JOINER, line)


def for_csv(text: str) -> str:
    """With an apostrophe before what a spreadsheet would take for a formula."""
    shown = unicodedata.normalize("NFKC", text.lstrip(" "))
    return f"'{text}" if shown.startswith(_FORMULA) else text
