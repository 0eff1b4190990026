"""Log lines: their formats, the rotated file of `enrichment up`, and `enrichment logs`."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from enrichment import __version__
from enrichment.cli.context import err, load_settings, out, services
from enrichment.domain.clock import utc_now
from enrichment.domain.errors import ConfigurationError
from enrichment.domain.log_context import dated, log_context, time_of

if TYPE_CHECKING:
    from enrichment.config import Settings

_log = logging.getLogger(__name__)
LOG_FILE = "enrichment.log"
MAX_BYTES = 10_000_000
KEPT_FILES = 5
FOLLOW_SECONDS = 0.3
_DATED = re.compile(r"(\d{4}-\d\d-\d\dT[\d:]+Z) (.*)", re.DOTALL)


def register(app: typer.Typer) -> None:
    app.command("logs")(logs)


class TextFormatter(logging.Formatter):
    """Date and time in UTC, level, message, and what the thread works for."""

    def format(self, record: logging.LogRecord) -> str:
        told = " ".join(f"{name}={value}" for name, value in log_context().items())
        return dated(record, f" [{told}]" if told else "")


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **log_context(),
        }
        if record.exc_text:
            content["exception"] = record.exc_text
        return json.dumps(content, ensure_ascii=False)


def log_to_stderr(settings: Settings) -> None:
    """Write what this process logs to its standard error, in the format of the settings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def log_start(settings: Settings, process: str, address: str = "") -> None:
    """One line on what starts: version, database without its password, address, next run."""
    from enrichment.warehouse.database import address_of

    database = f"the embedded server in {settings.enrichment_home}"
    if settings.database_url is not None:
        database = address_of(settings.database_url.get_secret_value())
    parts = [f"market-enrichment {__version__} {process} starts", f"database: {database}"]
    if address:
        parts.append(f"address: {address}")
    if process == "worker":
        parts.append(f"next run: {_next_run(settings, utc_now())}")
    _log.info("%s", "; ".join(parts))


def _next_run(settings: Settings, now: datetime) -> str:
    if not settings.enable_daily_enrichment:
        return "none, ENABLE_DAILY_ENRICHMENT is off"
    slots = [schedule.next_slot(now) for schedule in settings.run_schedules]
    slot = min(slots, key=attrgetter("at"))
    several = f" ({slot.schedule})" if len(slots) > 1 else ""
    return f"{slot.at:%Y-%m-%d %H:%M} UTC{several}"


class RotatedLog:
    """A file that gets dated lines: FILE.1 … FILE.5 are the older ones, of 10 MB each.

    Lines that can't be written, as on a full disk, are dropped.

    Args:
        file: The newest file; only this user may read it.
        max_bytes: Size after which the next line begins a new file.
    """

    def __init__(self, file: Path, *, as_json: bool, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._as_json, self._max_bytes = file, as_json, max_bytes
        self._lock = threading.Lock()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self._open()

    def write(self, process: str, line: str) -> None:
        """Add one line of a process."""
        content = (_as_json if self._as_json else _as_text)(process, line)
        with self._lock, suppress(OSError, ValueError):
            if self._file.tell() >= self._max_bytes:
                self._rotate()
            self._file.write(f"{content}\n".encode(errors="replace"))

    def _rotate(self) -> None:
        self._file.close()
        try:
            for number in range(KEPT_FILES, 0, -1):
                older = self._path if number == 1 else _numbered(self._path, number - 1)
                if older.exists():
                    older.replace(_numbered(self._path, number))
        finally:
            self._file = self._open()

    def _open(self) -> IO[bytes]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        number = os.open(self._path, flags, 0o600)
        os.fchmod(number, 0o600)  # it may be older than this rule
        file = os.fdopen(number, "ab", buffering=0)  # no buffer that a full disk lets grow
        file.seek(0, os.SEEK_END)
        return file

    def close(self) -> None:
        with self._lock:
            self._file.close()


def _numbered(file: Path, number: int) -> Path:
    return file.with_name(f"{file.name}.{number}")


def _now() -> str:
    return f"{utc_now():%Y-%m-%dT%H:%M:%SZ}"


def _as_text(process: str, line: str) -> str:
    dated = _DATED.fullmatch(line)
    time, rest = (dated[1], dated[2]) if dated else (_now(), line)
    return f"{time} {process:<9} {rest}"


def _as_json(process: str, line: str) -> str:
    with suppress(ValueError):
        content = json.loads(line)
        if isinstance(content, dict):
            return json.dumps({**content, "process": process}, ensure_ascii=False)
    return json.dumps({"time": _now(), "process": process, "message": line}, ensure_ascii=False)


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    symbol: Annotated[str | None, typer.Option(help="Only lines about this symbol.")] = None,
    job: Annotated[
        str | None, typer.Option(help="Only lines of this job, by its id's start.")
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Lines kept with failed symbols, of all workers.")
    ] = False,
    lines: Annotated[int, typer.Option(min=0, help="Newest lines to begin with.")] = 200,
) -> None:
    """Show the log of 'enrichment up', or what is kept with symbols that failed."""
    settings = load_settings()
    file = settings.enrichment_home / LOG_FILE
    if failed or (not file.exists() and (symbol or job)):
        _print_kept(settings, symbol, job, lines)
        return
    if not file.exists():
        raise ConfigurationError(
            f"there is no {file}: 'enrichment up' writes it; other processes log to their standard "
            "error, which their service manager keeps. What is kept with symbols that failed: "
            "'enrichment logs --failed'"
        )
    wanted = {"symbol": symbol, "job": job}
    shown = [line for line in _stored(file) if _concerns(line, wanted)]
    if not shown and not follow:
        err.print(f"no line of {file} is about it", highlight=False)
    for line in shown[len(shown) - lines :] if lines < len(shown) else shown:
        out.print(line, highlight=False)
    with suppress(KeyboardInterrupt):
        for line in _appended(file) if follow else ():
            if _concerns(line, wanted):
                out.print(line, highlight=False)


def _print_kept(settings: Settings, symbol: str | None, job: str | None, limit: int) -> None:
    """Print the lines in the database, the newest last."""
    with services(settings) as (reader, _):
        name = None if symbol is None else reader.symbols.stored_as(symbol)
        kept = reader.jobs.logs_of_failures(max(limit, 1), symbol=name, job=job)
    shown = [f"{line} [symbol={log.symbol} job={log.job_id}]" for log in kept for line in log.lines]
    if not shown:
        err.print("no symbol has failed, as far as is asked for")
    for line in shown[len(shown) - limit :] if limit < len(shown) else shown:
        out.print(line, highlight=False)


def _stored(file: Path) -> Iterator[str]:
    """The lines of all files, the oldest first."""
    for path in (*(_numbered(file, n) for n in range(KEPT_FILES, 0, -1)), file):
        with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as opened:
            yield from (line.rstrip("\n") for line in opened)


def _appended(file: Path) -> Iterator[str]:
    """Lines as they come, also when the file was rotated."""
    opened = file.open(encoding="utf-8", errors="replace")
    opened.seek(0, os.SEEK_END)
    while True:
        if line := opened.readline():
            yield line.rstrip("\n")
            continue
        with suppress(FileNotFoundError):
            if file.stat().st_ino != os.fstat(opened.fileno()).st_ino:
                opened.close()
                opened = file.open(encoding="utf-8", errors="replace")
                continue
        time.sleep(FOLLOW_SECONDS)


def _concerns(line: str, wanted: Mapping[str, str | None]) -> bool:
    """Whether the line has the wanted symbol and a job that begins as wanted."""
    content: Mapping[str, Any] = {}
    with suppress(ValueError):
        parsed = json.loads(line)
        content = parsed if isinstance(parsed, dict) else {}
    if not content:
        content = dict(re.findall(r"(symbol|job)=([^\s\]]+)", line))
    symbol, job = wanted["symbol"], wanted["job"]
    return (symbol is None or content.get("symbol") == symbol.upper()) and (
        job is None or str(content.get("job", "")).startswith(job)
    )
