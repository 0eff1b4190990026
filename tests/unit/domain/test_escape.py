"""Texts of others are shown as they are at each edge: terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from enrichment.cli.context import SafeConsole
from enrichment.domain.escape import for_csv, for_markdown, for_terminal

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07",
    "\x1b]8;;http://evil/\x1b\\click\x1b]8;;\x1b\\",
    "\x9b31m",
    "a\rb",
    "right\u202eleft",
    "zero\u200bwidth",
    "\x00",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_terminal_obeys_a_text(text: str) -> None:
    shown = for_terminal(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u200b" for c in shown)


@pytest.mark.parametrize(
    "text",
    [
        "![x](http://evil/p.png)",
        "[click](javascript:alert)",
        "<img src=http://evil/p.png>",
        "**bold** _it_ `code` ~~no~~ # head",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "> quote\n\n- list\n1. one",
        "http://evil/auto",
        "www.evil.example",
        ":red[hot] :material/home: $x^2$ &amp;",
        "<b>&lt;",
        "line\n# heading",
        "a\\*b",
    ],
)
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parseInline(for_markdown(text))[0].children
    assert tokens is not None
    assert {token.type for token in tokens} <= {"text", "text_special"}
    shown = "".join(token.content for token in tokens)
    assert shown.replace("\u2060", "") == " ".join(text.split())
    assert not re.search(r"https?://|www\.\w|:[a-z]+(/[a-z]+)?:", shown)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", " =1", "\uff1d1"]
)
def test_a_spreadsheet_takes_no_text_for_a_formula(text: str) -> None:
    assert for_csv(text) == f"'{text}"


@given(st.text(max_size=30))
def test_a_cell_survives_csv(text: str) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([for_csv(text)])
    assert not for_csv(text).lstrip(" ").startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize(
    "text", ["[/red]", "[bold]", "[link=http://evil]x[/link]", ":warning:", "[/]", "a[0]", "\\[x]"]
)
def test_the_command_line_prints_markup_as_it_is(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console = SafeConsole()
    console.print(f"paused by {text}")
    assert capsys.readouterr().out == f"paused by {text}\n"


def test_the_command_line_prints_no_control_characters_and_no_secrets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = SafeConsole()
    console.print("\x1b[31mred postgresql://u:pass-word@h/d", highlight=False)
    assert capsys.readouterr().out == "[31mred postgresql://u:***@h/d\n"
