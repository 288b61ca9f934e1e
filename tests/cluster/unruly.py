"""A proxy between a client and the API server that refuses, fails, forgets, cuts and keeps silent.

What happens to a request is drawn from a seeded generator. Some of it happens before the API server
hears of the request and some after, so that a write took effect and nobody was told. It speaks HTTP
without TLS on loopback, and asks the API server as its administrator.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
from collections import Counter
from contextlib import suppress
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.cluster.api import Credentials

SILENT_SECONDS = 5.0  # longer than its client has patience
HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "accept-encoding", "host"}


class Fate(StrEnum):
    """What becomes of a request."""

    PASSED = "passed"
    CONFLICT = "409"
    GONE = "410"
    TOO_MANY = "429"
    FAILED = "500"
    CUT_BEFORE = "cut before it was heard"
    CUT_AFTER = "cut after it was done"
    HALF = "half of the answer"
    SILENT = "no answer"
    SILENT_AFTER = "done without an answer"
    WATCH_CUT = "watch cut in mid-line"
    WATCH_ENDED = "watch ended in mid-line"
    WATCH_GONE = "watch told that its place is forgotten"


READS = (*(Fate.TOO_MANY, Fate.FAILED, Fate.CUT_BEFORE, Fate.CUT_AFTER, Fate.HALF, Fate.SILENT),)
WRITES = (*READS, Fate.CONFLICT, Fate.SILENT_AFTER)
WATCHES = (Fate.WATCH_CUT, Fate.WATCH_ENDED, Fate.WATCH_GONE, Fate.GONE)
OPENINGS = (Fate.TOO_MANY, Fate.FAILED, Fate.CUT_BEFORE)  # of a watch
REASONS = {
    Fate.CONFLICT: "Conflict",
    Fate.GONE: "Expired",
    Fate.TOO_MANY: "TooManyRequests",
    Fate.FAILED: "InternalError",
}
BEFORE = {*REASONS, Fate.CUT_BEFORE, Fate.SILENT}  # the API server never hears of it


class Unruly:
    """The proxy, from ``with`` to its end; ``fates`` counts what became of the requests.

    ``share``: of the requests that do not just pass; half of all watches have a bad end.
    """

    def __init__(
        self, url: str, credentials: Credentials, rng: random.Random, share: float = 0.2
    ) -> None:
        self.fates: Counter[Fate] = Counter()
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port
        self._context = credentials.context()
        self._rng, self._share = rng, share
        self._decks: dict[tuple[Fate, ...], list[Fate]] = {}
        self._lock = threading.Lock()
        self._upstream: set[http.client.HTTPSConnection] = set()
        self.over = threading.Event()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig of it, written to ``path``."""
        context = {"cluster": "proxy", "user": "nobody"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": self.url}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "proxy", "context": context}],
            "current-context": "proxy",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            left, self._upstream = self._upstream, set()
        for connection in left:
            if connection.sock is not None:  # wakes who reads it
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def draw(self, method: str, *, watches: bool) -> Fate:
        """What becomes of this one."""
        with self._lock:
            if self._rng.random() >= self._share:
                fate = Fate.PASSED
                if watches and self._rng.random() < 0.5:
                    fate = self._deal(WATCHES)
            elif watches:
                fate = self._deal(OPENINGS)
            else:
                fate = self._deal(READS if method == "GET" else WRITES)
            self.fates[fate] += 1
        return fate

    def _deal(self, fates: tuple[Fate, ...]) -> Fate:
        """One of them, as from a shuffled deck: each comes once before any comes again."""
        deck = self._decks.setdefault(fates, [])
        if not deck:
            deck.extend(self._rng.sample(fates, len(fates)))
        return deck.pop()

    def lines(self) -> int:
        """How many changes a watch tells of before its bad end."""
        with self._lock:
            return self._rng.randrange(8)

    def connect(self) -> http.client.HTTPSConnection:
        """A connection to the API server, closed with the proxy."""
        made = http.client.HTTPSConnection(self._host, self._port, context=self._context)
        with self._lock:
            self._upstream.add(made)
        return made

    def disconnect(self, connection: http.client.HTTPSConnection) -> None:
        with self._lock:
            self._upstream.discard(connection)
        connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Unruly

    def answer(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        watches = "watch" in query
        fate = self.proxy.draw(self.command, watches=watches)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fate in BEFORE:
            self._refuse(fate)
            return
        connection = self.proxy.connect()
        try:
            with suppress(OSError, http.client.HTTPException):  # either side has gone
                self._pass_on(connection, body, fate, watches=watches)
        finally:
            self.proxy.disconnect(connection)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815  # as http.server asks

    def _refuse(self, fate: Fate) -> None:
        if fate not in REASONS:
            if fate is Fate.SILENT:
                self.proxy.over.wait(SILENT_SECONDS)
            self.close_connection = True
            return
        text = json.dumps(_status(fate)).encode()
        extra = {"Retry-After": "1"} if fate is Fate.TOO_MANY else {}
        self._head(int(fate), {"Content-Type": "application/json", **extra}, len(text))
        self.wfile.write(text)

    def _pass_on(
        self,
        connection: http.client.HTTPSConnection,
        body: bytes,
        fate: Fate,
        *,
        watches: bool,
    ) -> None:
        sent = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
        connection.request(self.command, self.path, body or None, sent)
        heard = connection.getresponse()
        headers = {k: v for k, v in heard.getheaders() if k.lower() not in HOP}
        if watches and heard.status == http.client.OK:
            self._head(heard.status, {**headers, "Transfer-Encoding": "chunked"})
            self._stream(heard, fate)
            return
        data = heard.read()
        if fate is Fate.SILENT_AFTER:
            self.proxy.over.wait(SILENT_SECONDS)
        if fate in (Fate.SILENT_AFTER, Fate.CUT_AFTER):
            self.close_connection = True
            return
        self._head(heard.status, headers, len(data))
        if fate is Fate.HALF:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data)

    def _stream(self, heard: http.client.HTTPResponse, fate: Fate) -> None:
        left = self.proxy.lines() if fate in WATCHES else -1
        while line := heard.readline():
            if left == 0:
                break
            self._chunk(line)
            left -= 1
        else:
            self.wfile.write(b"0\r\n\r\n")
            return
        if fate is Fate.WATCH_GONE:
            error = {"type": "ERROR", "object": _status(Fate.GONE)}
            self._chunk(json.dumps(error).encode() + b"\n")
        else:
            self._chunk(line[: len(line) // 2])
        if fate is not Fate.WATCH_CUT:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _head(self, code: int, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def _status(fate: Fate) -> dict[str, object]:
    code = int(fate)
    message = f"the proxy says {fate}"
    return {"kind": "Status", "code": code, "reason": REASONS[fate], "message": message}
