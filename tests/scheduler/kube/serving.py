"""A small HTTP server that answers as an API server would, and a client of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Server:
    """Answers by ``answer(method, path, query, body)``; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[str, str, dict[str, str], Any], tuple[int, Any]] = lambda *_: (
            200,
            {"metadata": {"name": "a"}},
        )
        self.extra: dict[str, str] = {}
        self.hold = threading.Event()  # a watch stays open until it is set
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_all(self) -> None:
                outer._handle(self)

            def log_message(self, *args: object) -> None:
                pass

        for verb in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{verb}", Handler.handle_all)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.block_on_close = False
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        data = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        body = json.loads(data) if data else None
        self.asked.append((handler.command, parts.path, query, body))
        self.headers.append(dict(handler.headers.items()))
        status, said = self.answer(handler.command, parts.path, query, body)
        if isinstance(said, list):  # a watch: a line each, then open until released
            self._stream(handler, said)
            return
        text = said if isinstance(said, bytes) else json.dumps(said).encode()
        handler.send_response(status)
        for key, value in {"Content-Length": str(len(text)), **self.extra}.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(text)

    def _stream(self, handler: BaseHTTPRequestHandler, lines: list[Any]) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for line in lines:
            piece = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            handler.wfile.flush()
        self.hold.wait(10)
        handler.wfile.write(b"0\r\n\r\n")


def config_for(url: str) -> dict[str, Any]:
    """A kubeconfig of two contexts, ``one`` in the namespace ml and ``two`` in none."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
        "contexts": [
            {"name": "one", "context": {"cluster": "here", "user": "me", "namespace": "ml"}},
            {"name": "two", "context": {"cluster": "here", "user": "me"}},
        ],
    }
