"""Notification of new jobs: LISTEN on a connection that is used for nothing else."""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable
from typing import Any

import psycopg2
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import CHANNEL
from enrichment.warehouse.session import is_pooled
from resilience.supervised_thread import supervised_thread

_log = logging.getLogger(__name__)


class JobListener:
    """A thread that calls `wake` for every notification.

    While it has no connection, workers find new jobs by polling; they also report that the database
    is unavailable, so this thread does not. Through a pooler no notification arrives: it then ends.
    """

    def __init__(
        self, db: Database, wake: Callable[[], None], *, retry_seconds: float = 2.0
    ) -> None:
        self._db = db
        self._wake = wake
        self._retry = retry_seconds
        self._stop = threading.Event()
        self._thread = supervised_thread("listener", self._run, self._stop)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen()
            except (psycopg2.Error, DBAPIError, OSError) as exc:
                _log.debug("not listening for new jobs, polling instead: %s", exc)
                self._stop.wait(self._retry)

    def _listen(self) -> None:
        with self._db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            if is_pooled(conn):
                _log.warning(
                    "new jobs are found by polling: a pooler answers at %s; set "
                    "DIRECT_DATABASE_URL to the server itself to be notified at once",
                    self._db.address,
                )
                self._stop.set()
                return
            conn.execute(text(f"LISTEN {CHANNEL}"))
            driver: Any = conn.connection.driver_connection
            try:
                self._relay(driver)
            finally:
                conn.invalidate()  # a connection that listens must not go back to the pool

    def _relay(self, driver: Any) -> None:
        while not self._stop.is_set():
            if select.select([driver], [], [], 0.5)[0]:
                driver.poll()
                if driver.notifies:
                    driver.notifies.clear()
                    self._wake()
