"""Finds the end of an HTTP/1.1 request in the bytes that have come so far.

>>> request = IncomingRequest(max_body=100)
>>> request.feed(b"POST / HTTP/1.1\\r\\nContent-Length: 2\\r\\n\\r\\n{"), request.feed(b"}GET")
(<Progress.BODY: 2>, <Progress.COMPLETE: 3>)
>>> request.take()[-5:], request.rest()
(b'\\r\\n\\r\\n{}'[-5:], b'GET')
"""

from __future__ import annotations

from enum import Enum

MAX_HEAD_BYTES = 65_536
_MAX_CHUNK_LINE = 1024
_END_OF_HEAD = b"\r\n\r\n"


class Progress(Enum):
    """What has come of a request."""

    HEAD = 1
    BODY = 2
    COMPLETE = 3
    """All of it, or so much that the server can tell what is wrong with it."""
    HEAD_TOO_LARGE = 4
    BODY_TOO_LARGE = 5


class IncomingRequest:
    """The bytes of one request at a time, of a connection that may send several.

    Args:
        max_body: Bytes; the framing of chunks is not counted.
        received: What has come already.
    """

    def __init__(self, max_body: int, received: bytes = b"") -> None:
        self._max_body = max_body
        self._data = bytearray(received)
        self._searched = 0
        self._head = 0  # its length, once known
        self._end: int | None = None  # of the request, once known
        self._next_chunk: int | None = None  # where it begins, in a chunked body
        self._chunk_bytes = 0

    def __len__(self) -> int:
        return len(self._data)

    @property
    def head(self) -> bytes:
        """The head, once it is complete."""
        return bytes(self._data[: self._head])

    def feed(self, data: bytes) -> Progress:
        """Add bytes; returns what has come of the request now."""
        self._data += data
        if not self._head:
            found = self._data.find(_END_OF_HEAD, max(0, self._searched - 3))
            self._searched = len(self._data)
            if found < 0:
                too_large = len(self._data) > MAX_HEAD_BYTES
                return Progress.HEAD_TOO_LARGE if too_large else Progress.HEAD
            if found > MAX_HEAD_BYTES:
                return Progress.HEAD_TOO_LARGE
            self._head = found + len(_END_OF_HEAD)
            self._read_head()
        return self._body()

    def take(self) -> bytes:
        """The complete request."""
        return bytes(self._data[: self._end])

    def rest(self) -> bytes:
        """What the client has sent after the request."""
        return b"" if self._end is None else bytes(self._data[self._end :])

    def _read_head(self) -> None:
        """Set where the body ends, or that it is chunked; a wrong head is left to the server."""
        lengths, codings = set(), []
        for line in bytes(self._data[: self._head]).split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length":
                lengths.add(value.strip())
            elif name.strip().lower() == b"transfer-encoding":
                codings.append(value.strip().lower())
        if codings == [b"chunked"] and not lengths:
            self._next_chunk = self._head
        elif codings or len(lengths) != 1 or not (length := lengths.pop()).isdigit():
            self._end = self._head
        else:
            self._end = self._head + int(length[:20])

    def _body(self) -> Progress:
        if self._next_chunk is not None:
            return self._chunks()
        assert self._end is not None  # noqa: S101 — for the type checker: see `_read_head`
        if self._end - self._head > self._max_body:
            return Progress.BODY_TOO_LARGE
        return Progress.COMPLETE if len(self._data) >= self._end else Progress.BODY

    def _chunks(self) -> Progress:
        """Walk from chunk to chunk, each once; a malformed one is left to the server."""
        assert self._next_chunk is not None  # noqa: S101 — for the type checker
        while (start := self._next_chunk) < len(self._data):
            line_end = self._data.find(b"\r\n", start, start + _MAX_CHUNK_LINE)
            if line_end < 0:
                too_long = len(self._data) - start >= _MAX_CHUNK_LINE
                return self._malformed() if too_long else self._more()
            size = _chunk_size(bytes(self._data[start:line_end]))
            if size is None:
                return self._malformed()
            if size == 0:
                return self._trailers(line_end)
            self._chunk_bytes += size
            if self._chunk_bytes > self._max_body:
                return Progress.BODY_TOO_LARGE
            self._next_chunk = line_end + 2 + size + 2
        return self._more()

    def _trailers(self, last_line_end: int) -> Progress:
        end = self._data.find(_END_OF_HEAD, last_line_end)
        if end >= 0:
            self._end, self._next_chunk = end + len(_END_OF_HEAD), None
            return Progress.COMPLETE
        large = len(self._data) - last_line_end > MAX_HEAD_BYTES
        return Progress.HEAD_TOO_LARGE if large else Progress.BODY

    def _more(self) -> Progress:
        framing = len(self._data) - self._head - self._chunk_bytes
        return Progress.BODY_TOO_LARGE if framing > 2 * self._max_body + 65_536 else Progress.BODY

    def _malformed(self) -> Progress:
        self._end, self._next_chunk = len(self._data), None
        return Progress.COMPLETE


def _chunk_size(line: bytes) -> int | None:
    digits = line.partition(b";")[0].strip()
    try:
        return int(digits, 16) if digits.isalnum() and len(digits) <= 16 else None
    except ValueError:
        return None
