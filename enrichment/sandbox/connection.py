"""Resetting and watching the client's connection, through the socket that werkzeug exposes."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

RESET = "sandbox.reset"  # set in the environ of a request whose connection was reset
_SOCKET = "werkzeug.socket"


def reset(environ: dict[str, Any]) -> None:
    """Close the client's connection with RST; ConnectionResetError if there is no connection."""
    connection: socket.socket | None = environ.get(_SOCKET)
    if connection is None:
        raise ConnectionResetError("the connection is reset by request")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # The server's file objects on this socket would otherwise delay the closing.
    os.close(connection.detach())
    environ[RESET] = True


def client_disconnected(environ: dict[str, Any]) -> bool:
    """Whether the client has closed the connection while it waits for the response."""
    connection: socket.socket | None = environ.get(_SOCKET)
    if connection is None:
        return False
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.setblocking(True)
