"""The end of a request is found where h11 finds it, however its bytes arrive."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.incoming import MAX_HEAD_BYTES, IncomingRequest, Progress

CHUNKS = st.lists(st.binary(min_size=1, max_size=50), max_size=6)
BODIES = st.one_of(st.none(), st.binary(max_size=200), CHUNKS)


def sent(body: bytes | list[bytes] | None) -> bytes:
    """A request as h11 writes it: without a body, with a length, or in chunks."""
    client = h11.Connection(h11.CLIENT)
    headers = [("Host", "x")]
    if isinstance(body, list):
        headers.append(("Transfer-Encoding", "chunked"))
    elif body is not None:
        headers.append(("Content-Length", str(len(body))))
    head = client.send(h11.Request(method="POST", target="/", headers=headers))
    parts = body if isinstance(body, list) else [body] if body else []
    content = [client.send(h11.Data(data=part)) for part in parts]
    return b"".join(part or b"" for part in (head, *content, client.send(h11.EndOfMessage())))


@given(body=BODIES, following=st.binary(max_size=30), data=st.data())
def test_the_end_is_found_however_the_bytes_arrive(
    body: bytes | list[bytes] | None, following: bytes, data: st.DataObject
) -> None:
    request, whole = IncomingRequest(max_body=400), sent(body)
    stream = whole + following
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    edges = [0, *sorted(cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        progress = request.feed(stream[start:end])
        assert (progress is Progress.COMPLETE) == (end >= len(whole))
    assert (request.take(), request.rest()) == (whole, following)


@given(st.binary(max_size=300))
def test_any_bytes_have_an_answer(content: bytes) -> None:
    for head in (b"", b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"):
        request = IncomingRequest(max_body=100)
        for byte in head + content:
            if request.feed(bytes([byte])) not in (Progress.HEAD, Progress.BODY):
                break


POST = b"POST / HTTP/1.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "progress"),
    [
        (b"A" * (MAX_HEAD_BYTES + 1), Progress.HEAD_TOO_LARGE),
        (POST + b"Content-Length: 101\r\n\r\n", Progress.BODY_TOO_LARGE),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", Progress.BODY_TOO_LARGE),
        (CHUNKED + b"65\r\n", Progress.BODY_TOO_LARGE),
        (CHUNKED + b"1\r\nx\r\n" * 101, Progress.BODY_TOO_LARGE),
        (CHUNKED + b"zz\r\n", Progress.COMPLETE),
        (POST + b"Content-Length: -1\r\n\r\n", Progress.COMPLETE),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", Progress.COMPLETE),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", Progress.COMPLETE),
    ],
)
def test_what_is_too_large_or_wrong_needs_no_more_bytes(content: bytes, progress: Progress) -> None:
    assert IncomingRequest(max_body=100).feed(content) is progress


def test_a_body_of_tiny_chunks_takes_linear_time() -> None:
    request = IncomingRequest(max_body=2_000_000)
    request.feed(CHUNKED)
    for _ in range(300_000):
        request.feed(b"1\r\nx\r\n")
    assert request.feed(b"0\r\n\r\n") is Progress.COMPLETE
