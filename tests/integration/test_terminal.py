"""What commands print on terminals of several widths, into pipes, and in other encodings."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from enrichment.warehouse.database import Database
from tests.helpers.seeded_warehouse import seed
from tests.helpers.terminal import on_terminal, without_styles

WHY = "a vendor’s sentence, longer than the place that any terminal has beside a table – " * 2
TABLES = {
    "symbols list": ("", "symbol", "timeframe"),
    "status": ("series", "symbol", "timeframe"),
    "history": ("", "job_id"),
    "breakers": ("", "name", "kind"),
    "alerts list": (),
    "findings flags": ("rows", "symbol", "check"),
    "findings quarantine": ("rows", "symbol", "check"),
    "findings gaps": ("rows", "symbol", "timeframe"),
    "actions list": ("", "symbol", "kind"),
}
"""Command → where its JSON has the rows, and fields of them that the table shows as they are."""
STATEMENTS = f"""
INSERT INTO bar_flags (symbol, timeframe, ts, check_name, severity, detail)
VALUES ('AAPL', '1h', '2026-01-02 15:00Z', 'spike', 'warning', '{WHY}');
INSERT INTO bar_quarantine (symbol, timeframe, ts, check_name, detail, source, bar)
VALUES ('AAPL', '1h', '2026-01-02 16:00Z', 'ohlc', '{WHY}', 'polygon', '{{}}');
INSERT INTO bar_gaps (symbol, timeframe, ts, cause, error)
VALUES ('AAPL', '1h', '2026-01-02 17:00Z', 'failed_request', '{WHY}');
INSERT INTO enrichment_status (symbol, timeframe, status, last_error, source, bars, first_ts)
VALUES ('X:BTCUSD', '1h', 'error', '{WHY}', 'sandbox:binance', 1234567, '2020-01-01')
ON CONFLICT (symbol, timeframe) DO UPDATE SET status = 'error', last_error = EXCLUDED.last_error,
    source = EXCLUDED.source, bars = EXCLUDED.bars, first_ts = EXCLUDED.first_ts;
UPDATE resilience_state SET updated_at = now() - interval '1 hour';
UPDATE enrichment_jobs SET inserted = 1234567, updated = 7654321
"""


@pytest.fixture(scope="module")
def db_url(shared_db: Database) -> str:
    commands = seed(shared_db)
    day, why = date(2024, 6, 10), WHY.strip()
    commands.add_action("AAPL", "split", day, ratio=4, reason=why, actor="test")
    with shared_db.begin() as conn:
        conn.execute(text(STATEMENTS))
    return shared_db.url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def plain(db_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """Command → the lines of its `--plain` output, as cells."""
    commands = [f"{command} --plain" for command in TABLES]
    outputs = on_terminal(db_url, tmp_path_factory.mktemp("home"), commands, columns=None)
    tables = [[line.split("\t") for line in output.splitlines()] for output in outputs]
    return dict(zip(TABLES, tables, strict=True))


def test_plain_tables_have_every_row_of_the_json(
    db_url: str, plain: dict[str, list[list[str]]], tmp_path: Path
) -> None:
    commands = [f"{command} --json" for command, shown in TABLES.items() if shown]
    for command, output in zip(
        commands, on_terminal(db_url, tmp_path, commands, columns=None), strict=True
    ):
        name = command.removesuffix(" --json")
        where, *fields = TABLES[name]
        content: Any = json.loads(output)
        rows = content[where] if where else content
        assert rows
        assert len(rows) == len(plain[name]) - 1
        for row, cells in zip(rows, plain[name][1:], strict=True):
            assert {row[field].replace("_", " ") for field in fields} <= {
                cell.replace("_", " ") for cell in cells
            }


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_cell_is_cut_and_no_line_too_long(
    db_url: str, plain: dict[str, list[list[str]]], tmp_path: Path, columns: int
) -> None:
    outputs = on_terminal(db_url, tmp_path, list(TABLES), columns=columns)
    for command, output in zip(TABLES, outputs, strict=True):
        names, *rows = plain[command]
        lines = without_styles(output).splitlines()
        start = next(n for n, line in enumerate(lines) if _begins_with(line, names))
        lines = lines[start:]
        assert max(map(len, lines)) <= columns, (command, lines)
        left_out = set(" ".join(lines).partition(" columns: ")[2].replace(", ", " ").split())
        kept = [
            n
            for n, name in enumerate(names[:-1])
            if not {*re.findall(r"\w\S*\w", name)} <= left_out
        ]
        for row in rows:
            cells = "  .*".join(re.escape(row[n]) for n in kept)
            assert any(re.search(cells, line) for line in lines), (command, cells, lines)
            assert _squeezed(row[-1]) in _squeezed(*lines), (command, row, lines)


def _begins_with(line: str, names: list[str]) -> bool:
    return any(line.startswith(f"{name}  ") for name in names)


def _squeezed(*texts: str) -> str:
    return "".join("".join(texts).split())


def test_nothing_is_folded_in_a_pipe(db_url: str, tmp_path: Path) -> None:
    flags, quality = on_terminal(
        db_url, tmp_path, ["findings flags", "quality AAPL"], columns=None, COLUMNS="40"
    )
    assert WHY.strip() in flags
    assert len(flags.splitlines()) == 2
    assert "\x1b" not in flags + quality


def test_colours_end_with_no_color(db_url: str, tmp_path: Path) -> None:
    (coloured,) = on_terminal(db_url, tmp_path, ["status"], columns=80)
    (plain,) = on_terminal(db_url, tmp_path, ["status"], columns=80, NO_COLOR="1")
    assert "\x1b[31m" in coloured
    assert "\x1b[3" not in plain


@pytest.mark.parametrize(("encoding", "columns"), [("latin-1", 80), ("ascii", None)])
def test_other_encodings_show_what_they_have(
    db_url: str, tmp_path: Path, encoding: str, columns: int | None
) -> None:
    commands = ["findings flags", "status", "quality X:BTCUSD", "--help", "findings flags --json"]
    shown = on_terminal(db_url, tmp_path, commands, columns=columns, PYTHONIOENCODING=encoding)
    assert "vendor\\u2019s sentence" in shown[0]
    assert " table - a vendor" in " ".join(shown[0].split())
    assert "X:BTCUSD" in shown[1]
    (flag,) = json.loads(without_styles(shown[4]))["rows"]
    assert flag["detail"] == WHY
