"""What the commands share: the terminal, the settings, and the services on their database."""

from __future__ import annotations

import getpass
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from enrichment.config import Settings
    from enrichment.services.commands import Commands
    from enrichment.warehouse.read_models.facade import ReadModels

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@contextmanager
def services(chosen: Settings) -> Iterator[tuple[ReadModels, Commands]]:
    from enrichment.services.commands import Commands
    from enrichment.wiring.database import build_read_models, open_database

    with open_database(chosen, application="enrichment-cli") as db:
        yield build_read_models(db, chosen), Commands(db)


def settings(**overrides: Any) -> Settings:
    from enrichment.config import Settings

    return Settings.load(**{name: v for name, v in overrides.items() if v is not None})


def actor() -> str:
    return f"cli:{getpass.getuser()}"


def log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
