"""What the commands share: the terminal, common options, the settings and the services."""

from __future__ import annotations

import codecs
import getpass
import io
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.segment import Segment

from enrichment.domain.errors import InvalidRequest
from enrichment.domain.escape import for_terminal
from enrichment.domain.redact import redact

if TYPE_CHECKING:
    from enrichment.config import Settings
    from enrichment.services.commands import Commands
    from enrichment.warehouse.read_models.facade import ReadModels


PIPE_COLUMNS = 100_000  # of a pipe or file, where nothing is folded
_ASCII = {
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "✓": "+",
    "✗": "x",
    "×": "x",
    "·": ".",
    "█": "#",
}


class SafeConsole(Console):
    """Prints texts as they are: no markup, no emoji codes, no control characters, no secrets.

    Styles come from `Text` and `style=`, never from the text, which may be a vendor's.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        terminal = (sys.stderr if stderr else sys.stdout).isatty()
        super().__init__(
            stderr=stderr,
            soft_wrap=True,
            markup=False,
            emoji=False,
            width=None if terminal else PIPE_COLUMNS,
        )

    def print_plain(self, text: str) -> None:
        """Print lines with their tabs."""
        self.file.write(f"{for_terminal(redact(text))}\n")

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """Every output passes here, also that of progress bars and live tables."""
        return super()._render_buffer(
            part if part.control else Segment(for_terminal(redact(part.text)), part.style)
            for part in buffer
        )


def spell_out(error: UnicodeError) -> tuple[str, int]:
    """What a terminal's encoding lacks as ASCII: signs that look alike, else JSON's escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_ASCII.get(sign) or json.dumps(sign)[1:-1] for sign in lacking), error.end


def show_in_any_encoding() -> None:
    """Print texts on standard output and error whatever their encoding is."""
    codecs.register_error("enrichment.spelled_out", spell_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="enrichment.spelled_out")


out = SafeConsole()
err = SafeConsole(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Plain = Annotated[
    bool, typer.Option("--plain", help="The whole table, its columns separated by tabs.")
]
Reason = Annotated[str | None, typer.Option(help="Reason, recorded in the audit log.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what it would take, and change nothing.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Show progress until the job has finished.")]


@contextmanager
def services(settings: Settings | None = None) -> Iterator[tuple[ReadModels, Commands]]:
    """The read models and the commands, on the database of the settings."""
    from enrichment.wiring.database import build_commands, build_read_models, open_database

    settings = settings or load_settings()
    with open_database(settings, application="enrichment-cli") as db:
        yield build_read_models(db, settings), build_commands(db, settings)


def load_settings(**options: Any) -> Settings:
    """The settings of the environment; options that are not None take precedence."""
    from enrichment.config import Settings

    return Settings.load(**{name: value for name, value in options.items() if value is not None})


def actor() -> str:
    """The actor for the audit."""
    return f"cli:{getpass.getuser()}"


def parse_time(text: str) -> datetime:
    """An ISO 8601 date or time as timezone-aware UTC; a time without a zone is UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"{text!r} is not a date or time: write YYYY-MM-DD or YYYY-MM-DDTHH:MM"
        ) from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
