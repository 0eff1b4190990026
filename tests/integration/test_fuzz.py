"""Random input for what others send, for seconds; tests/crash does it for hours."""

from __future__ import annotations

from pathlib import Path

from enrichment.warehouse.database import Database
from tests.helpers.api_client import api_client, track_symbols
from tests.helpers.fuzz_targets import (
    api_target,
    csv_target,
    run_for,
    toml_target,
    vendor_target,
)

SECONDS = 5.0


def test_any_bytes_of_a_vendor_are_an_answer_or_an_error() -> None:
    with vendor_target() as target:
        assert run_for(2 * SECONDS, target) > 20


def test_any_text_is_a_file_of_symbols_or_has_bad_lines() -> None:
    assert run_for(SECONDS, csv_target) > 20


def test_any_bytes_are_a_file_of_rules_or_an_error(tmp_path: Path) -> None:
    assert run_for(SECONDS, toml_target(tmp_path / "alerts.toml")) > 20


def test_any_parameters_are_answered_or_refused(db: Database) -> None:
    track_symbols(db)
    assert run_for(2 * SECONDS, api_target(api_client(db))) > 20
