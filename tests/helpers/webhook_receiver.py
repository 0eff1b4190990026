"""An HTTP server on 127.0.0.1 that receives alert webhooks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ReceivedAlert:
    """A request that was answered with 202."""

    path: str
    key: str
    body: Any


@dataclass
class WebhookReceiver:
    """The receiver's state."""

    refusals: list[int] = field(default_factory=list)  # statuses to answer before the first 202
    requests: int = 0  # all requests, refused ones too
    delivered: list[ReceivedAlert] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def states(self) -> list[tuple[str, str]]:
        return [(r.body["rule"], r.body["state"]) for r in self.delivered]


@contextmanager
def webhook_receiver(*refusals: int) -> Iterator[WebhookReceiver]:
    """Run a receiver until the end of the block; it first answers with the refusals, in turn."""
    receiver = WebhookReceiver(list(refusals))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            with receiver.lock:
                receiver.requests += 1
                status = receiver.refusals.pop(0) if receiver.refusals else 202
                if status == 202:
                    key = self.headers["Idempotency-Key"]
                    receiver.delivered.append(ReceivedAlert(self.path, key, json.loads(content)))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
