"""An OpenID Connect provider on loopback: discovery, a page to choose a person, signed tokens.

It asks for no password; everything else follows the standard.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "dashboard", "not-a-secret-in-a-test"


@dataclass
class OpenIDProvider:
    """The provider's state."""

    persons: Mapping[str, Mapping[str, Any]]  # name → claims
    address: str = ""
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "test"}))
    codes: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.address,
            "authorization_endpoint": f"{self.address}/authorize",
            "token_endpoint": f"{self.address}/token",
            "jwks_uri": f"{self.address}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def persons_to_choose(self, query: Mapping[str, str]) -> str:
        """A page with a link for each person back to the client's redirect URI."""
        assert query["client_id"] == CLIENT
        assert "email" in query["scope"].split()
        links = []
        for name in self.persons:
            code = secrets.token_urlsafe()
            self.codes[code] = (name, query["nonce"], query["redirect_uri"])
            back = urlencode({"code": code, "state": query["state"]})
            links.append(f'<p><a href="{query["redirect_uri"]}?{back}">{name}</a></p>')
        return f"<!doctype html><title>Who are you?</title>{''.join(links)}"

    def tokens(self, asked: Mapping[str, str], credentials: str) -> dict[str, Any]:
        """Exchange a code for tokens; each code works once."""
        assert credentials == f"{CLIENT}:{SECRET}"
        name, nonce, redirect = self.codes.pop(asked["code"])
        assert asked["redirect_uri"] == redirect
        now = int(time.time())
        claims = {"iss": self.address, "aud": CLIENT, "sub": name, "nonce": nonce}
        claims |= {"iat": now, "exp": now + 3600, **self.persons[name]}
        token = jwt.encode({"alg": "RS256", "kid": "test"}, claims, self.key)
        return {"access_token": "none", "token_type": "Bearer", "id_token": token}


class _Handler(BaseHTTPRequestHandler):
    provider: OpenIDProvider

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match parts.path:
            case "/.well-known/openid-configuration":
                self._answer(json.dumps(self.provider.discovery()))
            case "/jwks":
                self._answer(json.dumps({"keys": [self.provider.key.as_dict(private=False)]}))
            case "/authorize":
                self._answer(self.provider.persons_to_choose(query), "text/html")
            case _:
                self.send_error(404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = {name: values[0] for name, values in parse_qs(body).items()}
        credentials = base64.b64decode(self.headers["Authorization"].removeprefix("Basic "))
        self._answer(json.dumps(self.provider.tokens(asked, credentials.decode())))

    def _answer(self, body: str, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def openid_provider(persons: Mapping[str, Mapping[str, Any]]) -> Iterator[OpenIDProvider]:
    """Run a provider with these persons until the end of the block."""
    provider = OpenIDProvider(persons)
    handler = type("Handler", (_Handler,), {"provider": provider})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    provider.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
