"""The database of an installation of the version before, as that version's own code filled it.

The dump has schema 0007. Five symbols on the sandbox, 120 days of history, two nights with faults:
omitted, invalid and restated bars, failed requests. It holds flags, gaps, quarantined bars, a
confirmation, corrections with the replaced versions, alerts with undelivered notifications, the
audit log, two pauses, a cancelled and a resumed job. Two jobs are still open: a backfill of which
one chunk is stored, and a job whose items belong to a worker that was killed.
"""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import psycopg2

from enrichment.warehouse.reader_role import READER

DUMP = Path(__file__).parents[1] / "integration" / "data" / "schema_0007.sql.gz"
ANCHOR = datetime(2026, 3, 16, tzinfo=UTC)  # where the sandbox's recorded bars end
LAST_NIGHT = datetime(2026, 3, 18, 9, 20, tzinfo=UTC)
SYMBOLS = ("AAPL", "IBM", "MSFT", "SIM7", "X:SIM1USD")  # tracked; NOSUCH was removed


def restore(url: str) -> None:
    """Restore the dump into the empty database of this URL."""
    connection = psycopg2.connect(url.replace("postgresql+psycopg2://", "postgresql://"))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [READER])
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE ROLE {READER} NOLOGIN")
            cursor.execute(gzip.decompress(DUMP.read_bytes()).decode())
    finally:
        connection.close()
