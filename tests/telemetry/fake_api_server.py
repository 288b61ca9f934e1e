"""An API server's lists of pods and ResourceSlices, over HTTPS with a certificate of its own."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PODS = "/api/v1/pods"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
OLD_SLICES = "/apis/resource.k8s.io/v1beta1/resourceslices"


class FakeApiServer:
    """Answers ``lists`` by path, two items a page, to whoever has the token; keeps the queries."""

    def __init__(self, folder: Path, certificate: bytes, key: bytes) -> None:
        self.lists: dict[str, list[Any]] = {}
        self.body: bytes | None = None  # instead
        self.queries: list[Mapping[str, list[str]]] = []
        self.account = folder
        (folder / "ca.crt").write_bytes(certificate)
        (folder / "token").write_text("a-token\n")
        (folder / "both.pem").write_bytes(certificate + key)
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the library's name
                fake.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name for it
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "both.pem")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        url = urlsplit(request.path)
        query = parse_qs(url.query)
        self.queries.append(query)
        code, body = 200, self.body
        if request.headers["Authorization"] != "Bearer a-token":
            code, body = 401, b"{}"
        elif url.path not in self.lists:
            code, body = 404, b"{}"
        elif body is None:
            first = int(query.get("continue", ["0"])[0])
            items = self.lists[url.path]
            more = {"continue": str(first + 2)} if first + 2 < len(items) else {}
            body = json.dumps({"items": items[first : first + 2], "metadata": more}).encode()
        request.send_response(code)
        request.end_headers()
        request.wfile.write(body)

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
