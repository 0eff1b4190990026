"""Heavy modules are imported lazily: not by an idle worker, not by `enrichment status`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPUTING = {"exchange_calendars", "pandas", "talib"}
SERVING = {"distributed", "flask", "plotly", "streamlit"}

READY_WORKER = """
import json, sys
from enrichment.wiring.worker import open_worker_process
from enrichment.config import Settings
with open_worker_process(Settings.load()):
    print(json.dumps([name.partition(".")[0] for name in sys.modules]))
"""

STATUS = """
import contextlib, io, json, sys
from enrichment.cli.main import main
sys.argv = ["enrichment", "status"]
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
assert "orker" in out.getvalue(), out.getvalue()
print(json.dumps([name.partition(".")[0] for name in sys.modules]))
"""


@pytest.mark.parametrize("program", [READY_WORKER, STATUS], ids=["worker", "status"])
def test_heavy_modules_are_not_loaded(db_url: str, tmp_path: Path, program: str) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DATABASE_URL": db_url, "ENRICHMENT_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    loaded = set(json.loads(completed.stdout))
    assert {"sqlalchemy", "numpy"} <= loaded
    assert loaded & (COMPUTING | SERVING | {"alembic"}) == set()
