"""Large answers as gzip, for clients that take it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator

from flask import Flask, Response, request

MIN_BYTES = 1000
LEVEL = 5
TYPES = ("application/json", "application/problem+json", "text/")
"""Beginnings of content types that shrink; Arrow and Parquet files do not, or are packed."""


def compress_answers(app: Flask) -> None:
    """Compress every answer of these types that is streamed or not small."""

    @app.after_request
    def compress(response: Response) -> Response:
        if not (response.mimetype or "").startswith(TYPES) or response.status_code == 304:
            return response
        response.vary.add("Accept-Encoding")
        small = not response.is_streamed and (response.content_length or 0) < MIN_BYTES
        if small or request.method == "HEAD" or not request.accept_encodings["gzip"]:
            return response
        if response.is_streamed:
            response.response = _compressed(response.iter_encoded())
        else:
            response.set_data(gzip.compress(response.get_data(), LEVEL, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
        etag, _ = response.get_etag()
        if etag is not None:
            response.set_etag(etag, weak=True)  # other bytes, the same content
        return response


def _compressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(LEVEL, wbits=31)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()
