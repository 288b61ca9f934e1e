"""The tests' own client of an API server goes on after an answer that did not come."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cluster.api import Api, Credentials


class Nobody(Credentials):
    """Asks without TLS: there is no authority."""

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context()


class Plain(Api):
    """Asks a port of this machine, and waits a moment for the answer."""

    def __init__(self, port: int) -> None:
        super().__init__(f"http://127.0.0.1:{port}", Nobody(authority=Path()))
        self._port = port

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=0.5)


@pytest.fixture
def api() -> Iterator[Api]:
    """Of a server that answers at once, but under ``/never`` not before the test is over."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the library's name
            if self.path == "/never":
                over.wait(30)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Plain(server.server_address[1])
    over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_after_an_answer_that_did_not_come_in_time_others_do(api: Api) -> None:
    assert api.get("/") == {}
    for _ in range(2):
        with pytest.raises(TimeoutError):
            api.get("/never")
        assert api.get("/") == {}
