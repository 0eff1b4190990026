"""What a fault does to the connection itself, through the socket that the server hands over."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

RESET = "sandbox.reset"  # set where nothing more can be sent
_SOCKET = "werkzeug.socket"


def reset(environ: dict[str, Any]) -> None:
    """Close the client's connection with RST; raises ConnectionResetError where there is none."""
    connection: socket.socket | None = environ.get(_SOCKET)
    if connection is None:
        raise ConnectionResetError("the connection is reset by request")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # The server still holds files on this socket, which would put the closing off.
    os.close(connection.detach())
    environ[RESET] = True


def client_left(environ: dict[str, Any]) -> bool:
    """Whether the waiting client has closed its side."""
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
