"""A gunicorn worker whose threads do not wait for clients.

One thread reads all requests and writes all responses without blocking, each within a time limit;
other threads only compute them. So clients that send half a request or do not read their response
hold a buffer, not a thread. Downloads are too large for a buffer: they are written by threads of
their own, and probes are answered by others, so that neither waits for anything else.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData
from gunicorn.http.parser import RequestParser
from gunicorn.workers.base import Worker

from api.incoming import IncomingRequest, Progress
from api.protection import MAX_BODY_BYTES

MAX_CONNECTIONS = 500
MAX_BUFFERED_BYTES = 64 * 2**20
"""Of all requests that are not complete and all responses that are not read, together."""
IDLE_SECONDS = 5.0
"""Between two requests of a connection."""
HEAD_SECONDS = 10.0
BODY_SECONDS = 60.0
WRITE_SECONDS = 30.0
"""For reading a response, or the next 64 kB of a download."""
DOWNLOAD_SECONDS = 3600.0
QUEUE_SECONDS = 30.0
"""After which a request that no thread has begun is answered with 503."""
LINGER_SECONDS = 2.0
"""For which the rest of a refused body is read, so that the client sees the answer."""
DOWNLOADS = 16
PROBE_PATHS = (b"/livez", b"/readyz")
DOWNLOAD_PATHS = (b"/api/v1/data/bars/",)
_PROBLEM = (
    '{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}","errors":[]}}'
)


class _ResponseBuffer:
    """Stands for the socket while a thread computes a response."""

    def __init__(self) -> None:
        self.content = bytearray()

    def sendall(self, data: bytes) -> None:
        self.content += data

    def send(self, data: bytes) -> int:
        self.content += data
        return len(data)

    def setblocking(self, flag: bool) -> None: ...


class _DownloadSocket:
    """The socket of a download: a client that does not read is disconnected."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._end = time.monotonic() + DOWNLOAD_SECONDS
        sock.settimeout(WRITE_SECONDS)

    def sendall(self, data: bytes) -> None:
        if time.monotonic() > self._end:
            raise BrokenPipeError(errno.EPIPE, "the download took too long")
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise BrokenPipeError(errno.EPIPE, "the client does not read") from None

    def send(self, data: bytes) -> int:
        self.sendall(data)
        return len(data)

    def setblocking(self, flag: bool) -> None: ...


@dataclass(eq=False)
class _Connection:
    """A client's connection; it belongs to the reading thread unless `busy`."""

    sock: socket.socket
    client: Any
    server: Any
    incoming: IncomingRequest = field(
        default_factory=lambda: IncomingRequest(MAX_BODY_BYTES), repr=False
    )
    progress: Progress = Progress.HEAD
    deadline: float = 0.0
    outgoing: memoryview = field(default_factory=lambda: memoryview(b""), repr=False)
    keep: bool = False
    """Whether another request may follow once the response is written."""
    busy: bool = False
    discarding: bool = False
    """Whether what comes is thrown away until the connection is closed."""

    @property
    def buffered(self) -> int:
        return len(self.incoming) + len(self.outgoing)

    @property
    def idle(self) -> bool:
        return not (self.busy or self.buffered)


class BufferedWorker(Worker):  # type: ignore[misc]  # gunicorn ships no types
    """See the module. `threads` of the configuration is the number for ordinary requests."""

    def init_process(self) -> None:
        self._poller = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._finished: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake_reader, self._wake_writer = os.pipe()
        for end in (self._wake_reader, self._wake_writer):
            os.set_blocking(end, False)
        self._threads = ThreadPoolExecutor(self.cfg.threads, "request")
        self._probes = ThreadPoolExecutor(2, "probe")
        self._downloads = ThreadPoolExecutor(DOWNLOADS, "download")
        super().init_process()

    def run(self) -> None:
        """Serve until a signal; then finish what has begun."""
        self._poller.register(self._wake_reader, selectors.EVENT_READ, self._run_finished)
        self._poller.register(self.PIPE[0], selectors.EVENT_READ, self._drain_signals)
        for listener in self.sockets:
            listener.setblocking(False)
            self._poller.register(listener, selectors.EVENT_READ, partial(self._accept, listener))
        while self.alive and self.ppid == os.getppid():
            self._serve_once()
        for listener in self.sockets:
            self._poller.unregister(listener)
            listener.close()
        end = time.monotonic() + self.cfg.graceful_timeout
        while self._connections and time.monotonic() < end:
            for conn in [conn for conn in self._connections if conn.idle]:
                self._close(conn)
            self._serve_once()
        for pool in (self._threads, self._probes, self._downloads):
            pool.shutdown(wait=False, cancel_futures=True)

    def _serve_once(self) -> None:
        self.notify()
        for key, _ in self._poller.select(0.25):
            key.data()
        now = time.monotonic()
        for conn in [c for c in self._connections if not c.busy and c.deadline < now]:
            self._close(conn)
        self._limit_memory()

    def _drain_signals(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)

    def _run_finished(self) -> None:
        """Write what is finished by now, and no more: others wait to be accepted and read."""
        with suppress(BlockingIOError):
            os.read(self._wake_reader, 4096)
        for _ in range(self._finished.qsize()):
            self._finished.get()()

    def _limit_memory(self) -> None:
        """Close the connections with most buffered bytes while there are too many of them."""
        if sum(conn.buffered for conn in self._connections) <= MAX_BUFFERED_BYTES:
            return
        waiting = sorted((c for c in self._connections if not c.busy), key=lambda c: c.buffered)
        while waiting and sum(conn.buffered for conn in self._connections) > MAX_BUFFERED_BYTES:
            self._close(waiting.pop())

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(64):
            if len(self._connections) >= MAX_CONNECTIONS and not self._close_oldest():
                return
            try:
                sock, client = listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE):
                    self._close_oldest()
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn = _Connection(sock, client, sock.getsockname())
            self._connections.add(conn)
            self._read_next(conn, b"", HEAD_SECONDS)

    def _close_oldest(self) -> bool:
        """Close the connection that has been waiting longest; False if none is waiting."""
        waiting = [conn for conn in self._connections if not conn.busy]
        if waiting:
            self._close(min(waiting, key=lambda conn: conn.deadline))
        return bool(waiting)

    def _read_next(self, conn: _Connection, received: bytes, seconds: float) -> None:
        """Read a request, of which some bytes may have come with the one before."""
        conn.incoming = IncomingRequest(MAX_BODY_BYTES)
        conn.deadline = time.monotonic() + seconds
        conn.progress = Progress.HEAD
        self._poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))
        if received:
            self._received(conn, received)

    def _on_readable(self, conn: _Connection) -> None:
        try:
            data = conn.sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(conn)
        elif not conn.discarding:
            self._received(conn, data)

    def _received(self, conn: _Connection, data: bytes) -> None:
        if not len(conn.incoming):
            conn.deadline = time.monotonic() + HEAD_SECONDS
        before, conn.progress = conn.progress, conn.incoming.feed(data)
        if conn.progress is Progress.COMPLETE:
            self._poller.unregister(conn.sock)
            self._dispatch(conn)
        elif conn.progress is Progress.BODY and before is Progress.HEAD:
            conn.deadline = time.monotonic() + BODY_SECONDS
            if b"100-continue" in conn.incoming.head.lower():
                with suppress(OSError):
                    conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif conn.progress is Progress.BODY_TOO_LARGE:
            self._refuse(conn, 413, "Content Too Large", f"send at most {MAX_BODY_BYTES:,} bytes")
        elif conn.progress is Progress.HEAD_TOO_LARGE:
            self._refuse(conn, 431, "Request Header Fields Too Large", "send smaller headers")

    def _refuse(self, conn: _Connection, status: int, title: str, detail: str) -> None:
        """Answer without a thread, and close once the client has read the answer."""
        self._poller.unregister(conn.sock)
        conn.incoming, conn.keep, conn.discarding = IncomingRequest(MAX_BODY_BYTES), False, True
        self._write(conn, _problem(status, title, detail))

    def _dispatch(self, conn: _Connection) -> None:
        """Let a thread compute the response."""
        path = conn.incoming.head.split(b" ", 2)[1:2]
        pool = self._threads
        if path and path[0].partition(b"?")[0] in PROBE_PATHS:
            pool = self._probes
        elif path and path[0].startswith(DOWNLOAD_PATHS):
            pool = self._downloads
        conn.busy = True
        pool.submit(self._answer, conn, time.monotonic(), pool is self._downloads)

    def _answer(self, conn: _Connection, queued: float, download: bool) -> None:
        """Compute a response, on a thread; a download is also written here."""
        sock = _DownloadSocket(conn.sock) if download else _ResponseBuffer()
        if time.monotonic() - queued > QUEUE_SECONDS:
            sock.sendall(_problem(503, "Service Unavailable", "too many requests: try again"))
            keep = False
        else:
            keep = self._respond(conn, sock)
        content = b"" if isinstance(sock, _DownloadSocket) else bytes(sock.content)
        self._finished.put(partial(self._on_answered, conn, content, keep))
        with suppress(BlockingIOError):  # the pipe is full: it is awake
            os.write(self._wake_writer, b"1")

    def _respond(self, conn: _Connection, sock: Any) -> bool:
        """Run the application; whether the connection stays open."""
        request = response = None
        try:
            parser = RequestParser(self.cfg, iter([conn.incoming.take()]), conn.client)
            request = next(parser)
            response, environ = wsgi.create(request, sock, conn.client, conn.server, self.cfg)
            environ["wsgi.multithread"] = True
            if not self.alive:
                response.force_close()
            body = self.wsgi(environ, response.start_response)
            try:
                for part in body:
                    response.write(part)
                response.close()
            finally:
                if hasattr(body, "close"):
                    body.close()
            return not response.should_close()
        except (NoMoreData, StopIteration, BrokenPipeError, ConnectionError):
            return False
        except Exception as exc:
            if isinstance(sock, _ResponseBuffer):
                sock.content.clear()
            elif response is not None and response.headers_sent:
                # Without its last chunk the client sees that the download is cut.
                self.log.warning("a download was cut: %s", exc)
                return False
            self.handle_error(request, sock, conn.client, exc)
            return False

    def _on_answered(self, conn: _Connection, content: bytes, keep: bool) -> None:
        conn.busy = False
        conn.keep = keep and self.alive
        conn.sock.setblocking(False)
        self._write(conn, content)

    def _write(self, conn: _Connection, content: bytes) -> None:
        conn.outgoing = memoryview(content)
        conn.deadline = time.monotonic() + WRITE_SECONDS
        if self._sent(conn):
            self._after_response(conn)
        elif conn in self._connections:
            on_writable = partial(self._on_writable, conn)
            self._poller.register(conn.sock, selectors.EVENT_WRITE, on_writable)

    def _on_writable(self, conn: _Connection) -> None:
        if self._sent(conn):
            self._poller.unregister(conn.sock)
            self._after_response(conn)

    def _sent(self, conn: _Connection) -> bool:
        """Send what the client takes now; whether that was all. Closes a broken connection."""
        try:
            while conn.outgoing:
                conn.outgoing = conn.outgoing[conn.sock.send(conn.outgoing) :]
        except BlockingIOError:
            return False
        except OSError:
            self._close(conn)
            return False
        conn.outgoing = memoryview(b"")
        return True

    def _after_response(self, conn: _Connection) -> None:
        if conn.keep:
            self._read_next(conn, conn.incoming.rest(), IDLE_SECONDS)
        else:
            self._linger(conn)

    def _linger(self, conn: _Connection) -> None:
        """Close the sending half and wait for the client: a reset would lose the answer."""
        conn.discarding = True
        conn.incoming = IncomingRequest(MAX_BODY_BYTES)
        conn.deadline = time.monotonic() + LINGER_SECONDS
        self._poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)

    def _close(self, conn: _Connection) -> None:
        self._connections.discard(conn)
        with suppress(KeyError, ValueError):
            self._poller.unregister(conn.sock)
        conn.sock.close()


def _problem(status: int, title: str, detail: str) -> bytes:
    body = _PROBLEM.format(title=title, status=status, detail=detail).encode()
    head = (
        f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
