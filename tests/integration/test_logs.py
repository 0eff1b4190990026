"""Log lines: dated or JSON, rotated, found again by symbol and job, started by one line."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from enrichment.cli.logs import JsonFormatter, RotatedLog, TextFormatter
from enrichment.domain.log_context import logged_for
from enrichment.warehouse.database import Database
from tests.helpers.api_client import LOG_LINES, run_open_items, track_symbols
from tests.helpers.server_process import serving

DATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ")


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.WARNING, "", 0, message, (), None)


def test_lines_say_for_which_symbol_and_job_they_are() -> None:
    with logged_for("AAPL", "3f2a"):
        text, as_json = (
            TextFormatter().format(record("failed")),
            JsonFormatter().format(record("é")),
        )
    assert DATED.match(text)
    assert text.endswith("WARNING failed [symbol=AAPL job=3f2a]")
    content = json.loads(as_json)
    assert (content["symbol"], content["job"], content["message"]) == ("AAPL", "3f2a", "é")
    assert TextFormatter().format(record("idle")).endswith("idle")


@pytest.mark.parametrize("as_json", [False, True])
def test_every_line_of_the_file_is_dated(as_json: bool, tmp_path: Path) -> None:
    log = RotatedLog(tmp_path / "enrichment.log", as_json=as_json)
    log.write("worker", "2026-11-28T01:30:00Z INFO begun")
    log.write("dashboard", "a line of a library")
    log.write("api", '{"time": "2026-11-28T01:30:00Z", "message": "m"}')
    log.close()
    lines = (tmp_path / "enrichment.log").read_text().splitlines()
    if as_json:
        parsed = [json.loads(line) for line in lines]
        assert [line["process"] for line in parsed] == ["worker", "dashboard", "api"]
        assert all("time" in line for line in parsed)
    else:
        assert lines[0] == "2026-11-28T01:30:00Z worker    INFO begun"
        assert all(DATED.match(line) for line in lines)


def test_five_older_files_are_kept(tmp_path: Path) -> None:
    log = RotatedLog(tmp_path / "enrichment.log", as_json=False, max_bytes=200)
    for number in range(100):
        log.write("worker", f"line {number}")
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["enrichment.log", *(f"enrichment.log.{n}" for n in range(1, 6))]
    assert "line 99" in (tmp_path / "enrichment.log").read_text()
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 300
        assert path.stat().st_mode & 0o077 == 0


def enrichment(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enrichment", *arguments],
        env={**os.environ, "ENRICHMENT_HOME": str(home), **environment},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_finds_lines_by_symbol_and_job(as_json: bool, tmp_path: Path) -> None:
    log = RotatedLog(tmp_path / "enrichment.log", as_json=as_json, max_bytes=150)
    formatter = JsonFormatter() if as_json else TextFormatter()
    for symbol, job in (("AAPL", "11aa"), ("AAPLX", "11aa"), ("AAPL", "22bb")):
        with logged_for(symbol, job):
            log.write("worker", formatter.format(record(f"{symbol} of {job} completed")))
    log.close()
    assert len(enrichment(tmp_path, "logs").stdout.splitlines()) == 3
    found = enrichment(tmp_path, "logs", "--symbol", "aapl", "--job", "22").stdout
    assert "AAPL of 22bb completed" in found
    assert len(found.splitlines()) == 1
    assert len(enrichment(tmp_path, "logs", "--job", "11aa").stdout.splitlines()) == 2
    assert len(enrichment(tmp_path, "logs", "--lines", "1").stdout.splitlines()) == 1


def test_without_a_log_the_command_says_who_writes_it(tmp_path: Path) -> None:
    done = enrichment(tmp_path, "logs")
    assert done.returncode == 1
    assert "'enrichment up' writes it" in done.stderr


def test_a_process_starts_with_one_line_without_secrets(db_url: str, tmp_path: Path) -> None:
    secret = db_url.replace("postgres:@", "postgres:geheimes@")
    with serving(secret, tmp_path, LOG_FORMAT="json"):
        lines = (tmp_path / "api.log").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["message"].startswith("market-enrichment ")
    assert "api starts; database: postgresql" in first["message"]
    assert "address: 127.0.0.1:" in first["message"]
    assert "geheimes" not in "".join(lines)


def test_what_is_kept_with_failed_symbols_is_shown_on_any_machine(
    db: Database, db_url: str, tmp_path: Path
) -> None:
    job = track_symbols(db).trigger(actor="test").job_id
    run_open_items(db, failing="MSFT")

    def shown(*arguments: str) -> list[str]:
        done = enrichment(tmp_path, "logs", *arguments, DATABASE_URL=db_url)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    expected = [f"{line} [symbol=MSFT job={job}]" for line in LOG_LINES]
    assert shown("--failed") == expected
    assert shown("--symbol", "msft") == expected
    assert shown("--job", str(job)[:8], "--lines", "1") == expected[1:]
    assert shown("--symbol", "AAPL") == []
