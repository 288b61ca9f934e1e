"""HTTP answers at one port: what scrapes and probes ask for, each by a function that is called."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

SILENCE_SECONDS = 10.0  # a connection that says nothing holds no thread for longer

Answer = tuple[int, str, bytes]  # status, type, body
Routes = Mapping[str, Callable[[], Answer]]  # by path


class Served:
    """Answers at one address and port, 0 for any that is free. ``OSError`` where it is taken."""

    def __init__(self, port: int, routes: Routes, *, address: str = "") -> None:
        given = routes

        class Handler(_Handler):
            routes = given

        self._server = ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        name = f"http-{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


def health(wrong: Callable[[], str]) -> Callable[[], Answer]:
    """The answer of a probe: what ``wrong`` says is wrong, or that all is well."""

    def answered() -> Answer:
        found = wrong()
        return (503 if found else 200), "text/plain", (found or "ok").encode() + b"\n"

    return answered


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE_SECONDS
    routes: Routes = MappingProxyType({})

    def do_GET(self) -> None:  # the library's name
        route = self.routes.get(self.path.split("?")[0])
        code, kind, body = route() if route else (404, "text/plain", b"not found\n")
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Say nothing: scrapes and probes come every few seconds."""
