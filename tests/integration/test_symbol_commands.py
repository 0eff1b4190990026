"""`enrichment symbols`, and errors that nobody foresaw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def enrichment(db_url: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enrichment", *arguments],
        env={**os.environ, "DATABASE_URL": db_url, "ENRICHMENT_HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_pairs_are_crypto_and_several_symbols_are_removed_at_once(
    db_url: str, tmp_path: Path
) -> None:
    added = enrichment(db_url, tmp_path, "symbols", "add", "X:BTCUSD", "AAPL", "MSFT")
    assert added.returncode == 0, added.stderr
    removed = enrichment(db_url, tmp_path, "symbols", "remove", "aapl", "X:BTCUSD")
    assert removed.returncode == 0, removed.stderr
    listed = json.loads(enrichment(db_url, tmp_path, "symbols", "list", "--json").stdout)
    assert {s["symbol"]: (s["asset_class"], s["active"]) for s in listed} == {
        "AAPL": ("stock", False),
        "MSFT": ("stock", True),
        "X:BTCUSD": ("crypto", False),
    }


def test_an_unforeseen_error_is_one_line_unless_debug_is_asked_for(
    db_url: str, tmp_path: Path
) -> None:
    (file := tmp_path / "symbols.csv").write_bytes(b"symbol,asset_class,timeframes\nA\xff,stock,1d")
    brief = enrichment(db_url, tmp_path, "symbols", "import", str(file))
    assert brief.returncode == 1
    assert "Traceback" not in brief.stderr
    assert len(brief.stderr.splitlines()) == 1
    assert "UTF-8" in brief.stderr
    missing = enrichment(db_url, tmp_path, "--debug", "export", "grafana", "--output", "/nowhere/x")
    assert "Traceback" not in missing.stderr, "an error with a remedy needs no traceback"
