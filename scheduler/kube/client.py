"""The door to a Kubernetes API server: raw JSON over its HTTP interface.

Requests are our own: objects are what ``json.loads`` makes of the answer, since the typed models of
the ``kubernetes`` package take ten times as long to decode.

Every call has a time-out, and takes a token from a bucket of ``qps`` and ``burst``: what we ask of
an API server is known, printed and bounded. What it answers is bounded too, in size and in time,
and has the form that is asked for, or the error is `ServerFailed`. Nothing is asked of an address
that it names. Writes ask for strict field validation. Errors are the types of
`scheduler.kube.errors`. A request is never repeated here, except after a 429, which says that
nothing has happened: whoever calls is level-triggered and knows whether to try again.

Managed fields, half of an object's size, are dropped where it is read.
"""

from __future__ import annotations

import codecs
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from scheduler.kube import errors, names
from scheduler.kube.api import Change, Listed, Patch, Raw, Watching, mapping_of
from scheduler.kube.bucket import Bucket
from scheduler.kube.names import FIELD_MANAGER, Resource

if TYPE_CHECKING:
    from urllib3 import PoolManager

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
WATCH_SECONDS = 240  # asked of the server, and up to a fifth more, so that not all end at once
WATCH_SILENCE_SECONDS = 150.0  # a server sends a bookmark a minute: longer, and the line is dead
ANSWER_SECONDS = 300.0  # from the first byte of an answer to the last
ANSWER_BYTES = 2**29  # all pods of a large cluster at once are a third of it
LINE_BYTES = 2**26  # of a watch: etcd holds no object of a tenth of it
REFUSAL_BYTES = 2**20
PROXIED_BYTES = 2**20
PROXIED_SECONDS = 30.0
PIECE_BYTES = 2**16
PAGE_OBJECTS = 500
PAGES = 10_000
PATIENCE = 4  # tries of a request that is answered by 429
LONGEST_WAIT_SECONDS = 10.0  # after one 429
QPS = 50.0
BURST = 100
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_APPLY = "application/apply-patch+yaml"  # JSON is YAML


class Kube:
    """One API server, as one user. Safe between threads."""

    def __init__(
        self,
        pool: PoolManager,
        url: str,
        credentials: Callable[[], Mapping[str, str]],
        *,
        namespace: str = "default",
        qps: float = QPS,
        burst: int = BURST,
        read_seconds: float = READ_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self.namespace = namespace
        self.qps, self.burst = qps, burst
        self._pool, self._credentials = pool, credentials
        self._bucket = Bucket(qps, burst)
        self._read_seconds = read_seconds
        self._sleep = sleep

    # -- reading -----------------------------------------------------------------------------------

    def get(self, resource: Resource, name: str, namespace: str = "") -> Raw:
        """One object."""
        return self._object("GET", _path(resource, namespace, name))

    def list(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> Listed:
        """All objects, of a namespace or of all of them; by pages, in one version of the world."""
        try:
            return self._pages(resource, namespace, labels, fields, PAGE_OBJECTS)
        except errors.Gone:  # the pages took longer than the server remembers: all at once
            return self._pages(resource, namespace, labels, fields, 0)

    def _pages(
        self, resource: Resource, namespace: str, labels: str, fields: str, limit: int
    ) -> Listed:
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(limit or "")}
        items: list[Raw] = []
        version = ""
        for page in self._each_page(resource, namespace, query):
            items += map(_slim, page.get("items") or ())
            version = str((page.get("metadata") or {}).get("resourceVersion") or "")
        return Listed(items=tuple(items), resource_version=version)

    def _each_page(
        self, resource: Resource, namespace: str, query: Mapping[str, str]
    ) -> Iterator[Raw]:
        """The parts of a list; all of them together are bounded as one answer is."""
        path, left, further = _path(resource, namespace), ANSWER_BYTES, ""
        for _ in range(PAGES):
            answer = self._send("GET", path, {**query, "continue": further})
            data = _body(answer, self.url, left, ANSWER_SECONDS)
            left -= len(data)
            page = mapping_of(data)
            if page is None or not _is_list(page):
                break
            yield page
            before, further = further, str((page.get("metadata") or {}).get("continue") or "")
            if not further:
                return
            if further == before:
                break
        raise errors.ServerFailed(f"{self.url} answered with no list of {resource.plural}")

    @contextmanager
    def watch(
        self,
        resource: Resource,
        resource_version: str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        seconds: int = WATCH_SECONDS,
    ) -> Iterator[Watching]:
        """Changes after ``resource_version``; the server ends it after ``seconds`` or a bit more.

        Iterating raises `Gone` where the version is too old to go on from (list anew), and
        `Unreachable` where the line is cut or silent.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds + random.randint(0, seconds // 5)),  # noqa: S311  # no secret
            "labelSelector": labels,
            "fieldSelector": fields,
        }
        answer = self._send("GET", _path(resource, namespace), query, read=WATCH_SILENCE_SECONDS)
        changes = _Watching(answer, self.url)
        try:
            yield changes
        finally:
            changes.stop()
            answer.close()

    def log(
        self,
        name: str,
        namespace: str,
        *,
        container: str = "",
        tail_lines: int | None = None,
        follow: bool = False,
        previous: bool = False,
    ) -> Iterator[str]:
        """What a pod's container wrote, in pieces as they come."""
        query = {
            "container": container,
            "tailLines": "" if tail_lines is None else str(tail_lines),
            "follow": "true" if follow else "",
            "previous": "true" if previous else "",
        }
        path = _path(names.PODS, namespace, name, "log")
        answer = self._send("GET", path, query, read=None if follow else self._read_seconds)
        try:
            yield from codecs.iterdecode(_pieces(answer, self.url), "utf-8", errors="replace")
        finally:
            answer.close()

    def proxied(
        self, namespace: str, service: str, port: str, path: str, headers: Mapping[str, str]
    ) -> bytes:
        """The answer of a service in the cluster to a GET, by way of the API server.

        ``path``: its steps are quoted here. What the service is, is its owner's: its answer is
        bounded narrowly.
        """
        steps = [quote(_step(each), safe="") for each in path.strip("/").split("/")]
        at = _path(names.SERVICES, namespace, f"{service}:{port}", "proxy")
        answer = self._send("GET", "/".join([at, *steps]), {}, headers=headers)
        return _body(answer, self.url, PROXIED_BYTES, PROXIED_SECONDS)

    def version(self) -> Raw:
        """What the server says of itself."""
        return self._json("GET", "/version")

    def server_time(self) -> datetime:
        """The server's clock, to the second."""
        answer = self._send("GET", "/version", {})
        answer.close()
        try:
            told = parsedate_to_datetime(answer.headers["Date"])
        except (KeyError, TypeError, ValueError):
            raise errors.ServerFailed(f"{self.url} does not say what time it is") from None
        return told if told.tzinfo else told.replace(tzinfo=UTC)

    def serves(self, resource: Resource) -> bool:
        """Whether the server knows the kind."""
        root = f"/apis/{resource.group}/{resource.version}" if resource.group else "/api/v1"
        try:
            known = self._json("GET", root)
        except errors.NotFound:
            return False
        kinds = known.get("resources")
        return isinstance(kinds, list) and any(
            isinstance(each, dict) and each.get("name") == resource.plural for each in kinds
        )

    def declares(self, resource: Resource, field: str) -> bool:
        """Whether the schema of the resource's group has a field of that name somewhere.

        By what the server publishes of its kinds to all: no right over their definitions is needed.
        """
        try:
            answer = self._send("GET", f"/openapi/v3/apis/{resource.api_version}", {})
        except errors.NotFound:
            return False
        wanted, rest = f'"{field}"'.encode(), b""
        try:
            # Megabytes: looked through, never held.
            for piece in _pieces(answer, self.url, ANSWER_BYTES, ANSWER_SECONDS):
                rest = rest[-len(wanted) :] + piece
                if wanted in rest:
                    return True
        finally:
            answer.close()
        return False

    def allowed(
        self, verb: str, resource: Resource, namespace: str = "", subresource: str = ""
    ) -> bool:
        """Whether we may."""
        asked = {
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "subresource": subresource,
            "namespace": namespace,
        }
        review = {
            "apiVersion": names.ACCESS_REVIEWS.api_version,
            "kind": names.ACCESS_REVIEWS.kind,
            "spec": {"resourceAttributes": {k: v for k, v in asked.items() if v}},
        }
        answer = self._json("POST", names.ACCESS_REVIEWS.path(), {}, review)
        status = answer.get("status")
        return isinstance(status, dict) and status.get("allowed") is True

    # -- writing -----------------------------------------------------------------------------------

    def create(self, resource: Resource, manifest: Raw, *, dry_run: bool = False) -> Raw:
        """Make an object; `AlreadyExists` where there is one of its name."""
        path = _path(resource, manifest["metadata"].get("namespace", ""))
        return self._write("POST", path, manifest, dry_run=dry_run)

    def replace(self, resource: Resource, manifest: Raw) -> Raw:
        """Put an object in place of the one that was read; `Conflict` where that has changed."""
        metadata = manifest["metadata"]
        path = _path(resource, metadata.get("namespace", ""), metadata["name"])
        return self._write("PUT", path, manifest)

    def apply(
        self, resource: Resource, manifest: Raw, *, subresource: str = "", dry_run: bool = False
    ) -> Raw:
        """Server-side apply: the fields of ``manifest`` are ours, those of others stay."""
        metadata = manifest["metadata"]
        path = _path(resource, metadata.get("namespace", ""), metadata["name"], subresource)
        manager = f"{FIELD_MANAGER}-{subresource}" if subresource else FIELD_MANAGER
        return self._write(
            "PATCH", path, manifest, kind=_APPLY, dry_run=dry_run, force="true", manager=manager
        )

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        namespace: str = "",
        *,
        subresource: str = "",
    ) -> Raw:
        """A merge patch (a mapping) or a JSON patch (a list of operations).

        A merge patch that states ``metadata.resourceVersion`` is refused with `Conflict` where the
        object has changed since.
        """
        kind = _JSON_PATCH if isinstance(patch, list) else _MERGE
        return self._write("PATCH", _path(resource, namespace, name, subresource), patch, kind=kind)

    def patch_status(self, resource: Resource, name: str, status: Raw, namespace: str = "") -> Raw:
        """Merge ``status`` into an object's status."""
        return self.patch(resource, name, {"status": status}, namespace, subresource="status")

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        propagation: str = "Background",
        uid: str = "",
        dry_run: bool = False,
    ) -> None:
        """Delete an object (with ``uid``: only that very one); one that is gone is no error."""
        options: Raw = {"apiVersion": "v1", "kind": "DeleteOptions"}
        options["propagationPolicy"] = propagation
        if uid:
            options["preconditions"] = {"uid": uid}
        if dry_run:
            options["dryRun"] = ["All"]
        try:
            self._json("DELETE", _path(resource, namespace, name), {}, options)
        except errors.NotFound:
            return

    def _write(
        self,
        method: str,
        path: str,
        body: Patch,
        *,
        kind: str = "application/json",
        dry_run: bool = False,
        force: str = "",
        manager: str = FIELD_MANAGER,
    ) -> Raw:
        query = {
            "fieldManager": manager,
            "fieldValidation": "Strict",
            "force": force,
            "dryRun": "All" if dry_run else "",
        }
        return self._object(method, path, query, body, kind)

    # -- the wire ----------------------------------------------------------------------------------

    def _object(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Patch | None = None,
        kind: str = "application/json",
    ) -> Raw:
        found = self._json(method, path, query, body, kind)
        if not _is_object(found):
            raise errors.ServerFailed(f"{self.url} answered {path} with something else than it")
        return _slim(found)

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Patch | None = None,
        kind: str = "application/json",
    ) -> Raw:
        answer = self._send(method, path, query or {}, body, kind)
        found = mapping_of(_body(answer, self.url, ANSWER_BYTES, ANSWER_SECONDS))
        if found is None:
            raise errors.ServerFailed(f"{self.url} answered {path} with something else than JSON")
        return found

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Patch | None = None,
        kind: str = "application/json",
        *,
        headers: Mapping[str, str] | None = None,
        read: float | None = -1.0,
    ) -> Any:
        """An answer of success, its body unread. ``read``: seconds of silence; below 0: ours."""
        for left in reversed(range(PATIENCE)):
            try:
                return self._once(method, path, query, body, kind, headers or {}, read)
            except errors.TooMany as error:
                if not left:
                    raise
                self._sleep(min(error.retry_after_seconds, LONGEST_WAIT_SECONDS))
        raise AssertionError  # the last try returns or raises

    def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Patch | None,
        kind: str,
        headers: Mapping[str, str],
        read: float | None,
    ) -> Any:
        from urllib3 import Timeout

        self._bucket.take()
        asked = urlencode({k: v for k, v in query.items() if v})
        seconds = self._read_seconds if read is not None and read < 0 else read
        with _as_errors(self.url):
            answer = self._pool.request(
                method,
                f"{self.url}{path}{'?' if asked else ''}{asked}",
                body=None if body is None else json.dumps(body).encode(),
                headers={**self._headers(kind), **headers},
                timeout=Timeout(connect=CONNECT_SECONDS, read=seconds),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        if answer.status < 300:
            return answer
        data = _body(answer, self.url, REFUSAL_BYTES, ANSWER_SECONDS)
        raise errors.refusal(self.url, answer.status, data, answer.headers)

    def _headers(self, kind: str) -> dict[str, str]:
        headers = {"Accept": "application/json", "Content-Type": kind, "User-Agent": FIELD_MANAGER}
        return {**headers, **self._credentials()}


class _Watching:
    """A watch's answer, a line a change."""

    def __init__(self, answer: Any, url: str) -> None:
        self._answer = answer
        self._url = url
        self._stopped = False

    def __iter__(self) -> Iterator[Change]:
        rest = bytearray()
        try:
            for piece in _pieces(self._answer, self._url):
                *lines, after = piece.split(b"\n")
                for line in lines:
                    rest += line
                    if rest:
                        yield _change(bytes(rest))
                    rest.clear()
                rest += after
                if len(rest) > LINE_BYTES:
                    raise errors.ServerFailed(f"{self._url}: a watch told of no end of an object")
        except errors.Unreachable:
            if not self._stopped:
                raise

    def stop(self) -> None:
        """End it; a thread that waits for the next change goes on at once."""
        self._stopped = True
        # It may have ended already. It is not closed under the hands of who reads: that is woken.
        with suppress(ValueError, OSError, RuntimeError):
            self._answer.shutdown()


def _pieces(answer: Any, url: str, most: float = inf, seconds: float = inf) -> Iterator[bytes]:
    """The body as it comes, a read each. ``most``: bytes of it; ``seconds``: that all may take."""
    ends, size = time.monotonic() + seconds, 0
    with _as_errors(url):
        while piece := answer.read1(PIECE_BYTES, decode_content=True):
            size += len(piece)
            if size > most:
                raise errors.ServerFailed(f"{url} answers with more than {most:,.0f} bytes")
            if time.monotonic() > ends:
                raise errors.Unreachable(f"{url} has not answered in full for {seconds:.0f} s")
            yield piece


def _body(answer: Any, url: str, most: float, seconds: float) -> bytes:
    """All of it; the connection is free again."""
    try:
        data = b"".join(_pieces(answer, url, most, seconds))
    except errors.KubeError:
        answer.close()
        raise
    answer.release_conn()
    return data


def _change(line: bytes) -> Change:
    said = mapping_of(line)
    if said is None:
        raise errors.Unreachable("a watch was cut in mid-line")
    raw = said.get("object")
    if not isinstance(raw, dict):
        raise errors.ServerFailed("a watch told of no object")
    if said.get("type") == "ERROR":
        code = raw.get("code")
        raise errors.error_of(code if isinstance(code, int) else 500, raw, {})
    told = said.get("type") == "BOOKMARK" or _is_object(raw)
    metadata = raw.get("metadata")
    if not told or not isinstance(metadata, dict) or not metadata.get("resourceVersion"):
        raise errors.ServerFailed("a watch told of no object")
    return Change(type=str(said.get("type")), object=_slim(raw))


def _is_object(raw: object) -> bool:
    """Whether it has a name: nothing of Kubernetes' has none."""
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    return isinstance(metadata, dict) and bool(metadata.get("name"))


def _is_list(raw: Raw) -> bool:
    """Whether it has objects, none for null, and says of which state of the world."""
    items, metadata = raw.get("items") or [], raw.get("metadata") or {}
    return isinstance(items, list) and isinstance(metadata, dict) and all(map(_is_object, items))


def _path(resource: Resource, namespace: str, *steps: str) -> str:
    """Where a kind is, or with ``steps`` (a name, a subresource) one object of it.

    A name that is none would be another address: without one, that of all objects.
    """
    for step in (*filter(None, (namespace,)), *steps[:1]):
        _step(step)
    return resource.path(namespace, *steps)


def _step(text: str) -> str:
    if text in ("", ".", "..") or "/" in text or "%" in text:
        raise errors.Invalid(f"found {text[:100]!r}, allowed: a name without / and %")
    return text


@contextmanager
def _as_errors(url: str) -> Iterator[None]:
    """What the connection raises, as `Unreachable`."""
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (HTTPError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise errors.Unreachable(f"{url} does not answer: {reason}") from None


def _slim(raw: Raw) -> Raw:
    metadata = raw.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("managedFields", None)
    return raw
