"""The sandbox's HTTP server: threads, keep-alive, clean shutdown."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from typing import Any

from flask import Flask
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.test import run_wsgi_app

from enrichment.domain.errors import ConfigurationError
from enrichment.sandbox.app import create_app
from enrichment.sandbox.connection import RESET


def serve(host: str, port: int, stop: Event, **options: Any) -> None:
    """Serve until `stop` is set; `options` are those of `create_app`."""
    app = create_app(**options)
    app.extensions["sandbox"].market.warm_up()
    with running(app, host, port):
        stop.wait()


@contextmanager
def running(app: Flask, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve the app in a thread during the block; yields the server's URL."""
    server = _Server(app, _listening_socket(host, port), host, port)
    thread = Thread(target=server.serve_forever, args=(0.05,), name="sandbox")
    thread.start()
    try:
        yield f"http://{host}:{server.port}"
    finally:
        server.shutdown()
        app.extensions["sandbox"].close()
        server.disconnect()
        server.server_close()
        thread.join()


def _listening_socket(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=128)
    except OSError as exc:
        raise ConfigurationError(
            f"the sandbox can't listen on {host}:{port} ({os.strerror(exc.errno or 0)}): "
            "choose another port with --port or ENRICHMENT_SANDBOX_PORT"
        ) from exc


class _Handler(WSGIRequestHandler):
    """Keeps connections alive; werkzeug's own handler closes them after each response."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body are sent together
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        environ = self.make_environ()
        parts, status, headers = run_wsgi_app(self.server.app, environ, buffered=True)
        if RESET in environ:
            self.close_connection = True
            return
        # An unread request body would be parsed as the next request.
        self.close_connection = self.close_connection or self.command != "GET"
        try:
            self.send_response(int(status[:3]), status[4:])
            for name, value in headers:
                self.send_header(name, value)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"".join(parts))
            self.wfile.flush()
        except OSError:  # the client has disconnected
            self.close_connection = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: `/_sandbox/requests` counts requests."""


class _Server(ThreadedWSGIServer):
    daemon_threads = False

    def __init__(self, app: Flask, listening: socket.socket, host: str, port: int) -> None:
        self._open: set[socket.socket] = set()
        self._lock = Lock()
        with listening:
            super().__init__(host, port, app, _Handler, fd=listening.fileno())

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def disconnect(self) -> None:
        """Close all connections, idle and busy, so that their threads end."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
