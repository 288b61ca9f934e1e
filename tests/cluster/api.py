"""An API server as the tests see it: JSON in, JSON out, by nothing but the standard library.

The tests look at the cluster through this and not through `scheduler.kube`, so that a mistake there
cannot hide itself.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

Object = dict[str, Any]  # a Kubernetes object, as it is sent

_PATCHES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


class Refused(Exception):
    """The API server answered with an error: its HTTP code, reason and message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code, self.reason, self.message = code, reason, message


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who asks: a client certificate, or a token."""

    authority: Path
    certificate: Path | None = None
    key: Path | None = None
    token: str = ""

    def context(self) -> ssl.SSLContext:
        """How to speak TLS as that client."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key)
        return context


class Api:
    """One client of an API server. Each thread has a connection of its own, kept open.

    A path is what comes after the host: ``/api/v1/namespaces/default/pods``. Every call raises
    `Refused` for an HTTP code of 400 and above, and `OSError` where no server answers.
    """

    def __init__(self, url: str, credentials: Credentials, timeout_seconds: float = 30) -> None:
        self.url, self.credentials = url, credentials
        self._timeout_seconds = timeout_seconds
        self._context = credentials.context()
        self._own = threading.local()

    def get(self, path: str, **query: str) -> Object:
        """The object or list at that path."""
        return self._call("GET", path, query=query)

    def text(self, path: str, **query: str) -> str:
        """What lies at a path that is not JSON: a log, a health check."""
        return self._send("GET", path, None, "", query).decode()

    def post(self, path: str, body: Object, **query: str) -> Object:
        """Creates an object; ``path`` is that of its collection."""
        return self._call("POST", path, body, query=query)

    def put(self, path: str, body: Object) -> Object:
        """Replaces an object."""
        return self._call("PUT", path, body)

    def patch(self, path: str, body: object, kind: str = "merge") -> Object:
        """Changes an object by a ``merge`` or ``json`` patch."""
        return self._call("PATCH", path, body, _PATCHES[kind])

    def apply(self, path: str, body: Object | str) -> Object:
        """Makes an object so, by server-side apply: creates it, or changes what differs.

        ``body`` may be the text of its YAML.
        """
        query = {"fieldManager": "tests", "force": "true", "fieldValidation": "Strict"}
        return self._call("PATCH", path, body, _PATCHES["apply"], query)

    def delete(self, path: str, grace_seconds: int | None = None, **query: str) -> Object:
        """Deletes an object or, at a collection's path, all of them."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        body["propagationPolicy"] = "Background"
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        return self._call("DELETE", path, body, query=query)

    def exists(self, path: str) -> bool:
        """Whether there is an object at that path."""
        try:
            self.get(path)
        except Refused as why:
            if why.code != http.client.NOT_FOUND:
                raise
            return False
        return True

    def _call(
        self,
        method: str,
        path: str,
        body: object = None,
        content: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Object:
        answer: Object = json.loads(self._send(method, path, body, content, query))
        return answer

    def _send(
        self, method: str, path: str, body: object, content: str, query: dict[str, str] | None
    ) -> bytes:
        where = f"{path}?{urlencode(query)}" if query else path
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content
        if self.credentials.token:
            headers["Authorization"] = f"Bearer {self.credentials.token}"
        sent = body if body is None or isinstance(body, str) else json.dumps(body)
        answer = self._exchange(method, where, sent, headers)
        read = answer.read()
        if answer.status >= http.client.BAD_REQUEST:
            raise _refusal(answer.status, read)
        return read

    def _exchange(
        self, method: str, where: str, body: str | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Sends and hears; a second time where the server had closed a connection kept open."""
        kept = getattr(self._own, "connection", None)
        for connection in (kept, self._connect()) if kept else (self._connect(),):
            try:
                connection.request(method, where, body and body.encode(), headers)
                answer: http.client.HTTPResponse = connection.getresponse()
            except (ConnectionError, http.client.BadStatusLine, ssl.SSLError):
                connection.close()
                if connection is not kept:
                    raise
            except OSError:  # too slow: its answer must not be taken for that of the next request
                connection.close()
                raise
            else:
                self._own.connection = connection
                return answer
        raise AssertionError("unreachable")

    def _connect(self) -> http.client.HTTPConnection:
        address = urlsplit(self.url)
        assert address.hostname is not None
        return http.client.HTTPSConnection(
            address.hostname, address.port, timeout=self._timeout_seconds, context=self._context
        )


def _refusal(code: int, body: bytes) -> Refused:
    with contextlib.suppress(ValueError):
        status = json.loads(body)
        return Refused(code, status.get("reason", ""), status.get("message", ""))
    return Refused(code, "", body.decode(errors="replace"))


def eventually(
    true: Callable[[], object],
    what: str,
    within_seconds: float = 30,
    every_seconds: float = 0.05,
) -> Any:
    """Asks until the answer is true, and returns it; fails, saying ``what``, when it takes longer.

    An API server that does not answer meanwhile, or says no, counts as not yet.
    """
    until = time.monotonic() + within_seconds
    last: object = None
    while time.monotonic() < until:
        try:
            last = true()
        except (Refused, OSError, http.client.HTTPException) as why:
            last = why
        else:
            if last:
                return last
        time.sleep(every_seconds)
    raise AssertionError(f"not within {within_seconds:g} s: {what} (last: {last!r})")
