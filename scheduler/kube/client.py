"""The door to a Kubernetes API server: raw JSON over its HTTP interface.

The ``kubernetes`` package reads the configuration (contexts, credentials and their renewal, TLS,
proxies, the service account of a pod) and gives the connection pool. Requests are our own: objects
are what ``json.loads`` makes of the answer, since typed models take ten times as long to decode.

Every call has a time-out, and takes a token from a bucket of ``qps`` and ``burst``: what we ask of
an API server is known, printed and bounded. Writes ask for strict field validation. Errors are the
types of `scheduler.kube.errors`. A request is never repeated here, except after a 429, which says
that nothing has happened: whoever calls is level-triggered and knows whether to try again.

Managed fields, half of an object's size, are dropped where it is read.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from scheduler.kube import errors, names
from scheduler.kube.api import Change, Listed, Patch, Raw, Watching
from scheduler.kube.bucket import Bucket
from scheduler.kube.names import FIELD_MANAGER, Resource

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
WATCH_SECONDS = 240  # asked of the server, and up to a fifth more, so that not all end at once
WATCH_SILENCE_SECONDS = 150.0  # a server sends a bookmark a minute: longer, and the line is dead
PAGE_OBJECTS = 500
PATIENCE = 4  # tries of a request that is answered by 429
LONGEST_WAIT_SECONDS = 10.0  # after one 429
CONNECTIONS = 32
QPS = 50.0
BURST = 100
_IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_APPLY = "application/apply-patch+yaml"  # JSON is YAML


class Kube:
    """One API server, as one user. Safe between threads."""

    def __init__(
        self,
        configuration: Any,
        *,
        namespace: str = "default",
        qps: float = QPS,
        burst: int = BURST,
        read_seconds: float = READ_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        from kubernetes.client.rest import RESTClientObject

        configuration.connection_pool_maxsize = CONNECTIONS
        self.namespace = namespace
        self.qps, self.burst = qps, burst
        self._configuration = configuration
        self._pool = RESTClientObject(configuration).pool_manager
        self._bucket = Bucket(qps, burst)
        self._read_seconds = read_seconds
        self._sleep = sleep

    @property
    def url(self) -> str:
        """The server's address."""
        return str(self._configuration.host)

    # -- reading -----------------------------------------------------------------------------------

    def get(self, resource: Resource, name: str, namespace: str = "") -> Raw:
        """One object."""
        return _slim(self._json("GET", resource.path(namespace, name)))

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
        while True:
            page = self._json("GET", resource.path(namespace), query)
            items += map(_slim, page.get("items") or ())
            known = page.get("metadata") or {}
            if not known.get("continue"):
                return Listed(items=tuple(items), resource_version=known.get("resourceVersion", ""))
            query["continue"] = known["continue"]

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
            "timeoutSeconds": str(seconds + random.randint(0, seconds // 5)),  # noqa: S311
            "labelSelector": labels,
            "fieldSelector": fields,
        }
        answer = self._send("GET", resource.path(namespace), query, read=WATCH_SILENCE_SECONDS)
        changes = _Watching(answer)
        try:
            yield changes
        finally:
            changes.stop()

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
        path = names.PODS.path(namespace, name, "log")
        answer = self._send("GET", path, query, read=None if follow else self._read_seconds)
        try:
            for piece in _pieces(answer):
                yield piece.decode(errors="replace")
        finally:
            answer.close()

    def proxied(
        self, namespace: str, service: str, port: str, path: str, headers: Mapping[str, str]
    ) -> bytes:
        """The answer of a service in the cluster to a GET, by way of the API server."""
        at = names.SERVICES.path(namespace, f"{service}:{port}", "proxy") + path
        answer = self._send("GET", at, {}, headers=headers)
        try:
            return bytes(answer.read(decode_content=True))
        finally:
            answer.release_conn()

    def version(self) -> Raw:
        """What the server says of itself."""
        return self._json("GET", "/version")

    def server_time(self) -> datetime:
        """The server's clock, to the second."""
        answer = self._send("GET", "/version", {})
        answer.drain_conn()
        return parsedate_to_datetime(answer.headers["Date"])

    def serves(self, resource: Resource) -> bool:
        """Whether the server knows the kind."""
        root = f"/apis/{resource.group}/{resource.version}" if resource.group else "/api/v1"
        try:
            known = self._json("GET", root)
        except errors.NotFound:
            return False
        return any(each["name"] == resource.plural for each in known.get("resources") or ())

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
            for piece in _pieces(answer):  # megabytes: looked through, never held
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
        return bool(answer["status"].get("allowed"))

    # -- writing -----------------------------------------------------------------------------------

    def create(self, resource: Resource, manifest: Raw, *, dry_run: bool = False) -> Raw:
        """Make an object; `AlreadyExists` where there is one of its name."""
        path = resource.path(manifest["metadata"].get("namespace", ""))
        return self._write("POST", path, manifest, dry_run=dry_run)

    def replace(self, resource: Resource, manifest: Raw) -> Raw:
        """Put an object in place of the one that was read; `Conflict` where that has changed."""
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"])
        return self._write("PUT", path, manifest)

    def apply(
        self, resource: Resource, manifest: Raw, *, subresource: str = "", dry_run: bool = False
    ) -> Raw:
        """Server-side apply: the fields of ``manifest`` are ours, those of others stay."""
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"], subresource)
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
        return self._write("PATCH", resource.path(namespace, name, subresource), patch, kind=kind)

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
            self._json("DELETE", resource.path(namespace, name), {}, options)
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
        return _slim(self._json(method, path, query, body, kind))

    # -- the wire ----------------------------------------------------------------------------------

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Patch | None = None,
        kind: str = "application/json",
    ) -> Raw:
        answer = self._send(method, path, query or {}, body, kind)
        try:
            with _as_errors(self.url):
                data = answer.read(decode_content=True)
        finally:
            answer.release_conn()
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
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
        from urllib.parse import urlencode

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
                preload_content=False,
            )
            if answer.status < 300:
                return answer
            data = answer.read(decode_content=True)
        answer.release_conn()
        raise errors.refusal(self.url, answer.status, data, answer.headers)

    def _headers(self, kind: str) -> dict[str, str]:
        headers = {"Accept": "application/json", "Content-Type": kind, "User-Agent": FIELD_MANAGER}
        for known in self._configuration.auth_settings().values():  # renews what has run out
            headers[known["key"]] = known["value"]
        return headers


class _Watching:
    """A watch's answer, a line a change."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._stopped = False

    def __iter__(self) -> Iterator[Change]:
        rest = b""
        try:
            for piece in _pieces(self._answer):
                *lines, rest = (rest + piece).split(b"\n")
                yield from map(_change, filter(None, lines))
        except errors.Unreachable:
            if not self._stopped:
                raise

    def stop(self) -> None:
        """End it; a thread that waits for the next change goes on at once."""
        self._stopped = True
        with suppress(ValueError, OSError, RuntimeError):  # it may have ended already
            self._answer.shutdown()  # wakes a reader
        self._answer.close()


def _pieces(answer: Any) -> Iterator[bytes]:
    with _as_errors("the API server"):
        yield from answer.stream(65536, decode_content=True)


def _change(line: bytes) -> Change:
    try:
        raw = json.loads(line)
    except ValueError:
        raise errors.Unreachable("a watch was cut in mid-line") from None
    if raw["type"] == "ERROR":
        status = raw["object"]
        raise errors.error_of(int(status.get("code") or 500), status, {})
    return Change(type=raw["type"], object=_slim(raw["object"]))


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


# -- where the cluster is --------------------------------------------------------------------------


def connect(
    *, context: str = "", kubeconfig: str = "", qps: float = QPS, burst: int = BURST
) -> Kube:
    """The cluster of a kubeconfig's context, or the one that this pod is in.

    ``kubeconfig``: a file (several, as ``KUBECONFIG`` has them); empty: ``KUBECONFIG``, else
    ``~/.kube/config``, else the service account of the pod.

    Raises:
        Unconfigured: there is none, or it cannot be used.
    """
    from kubernetes.client import Configuration
    from kubernetes.config import load_incluster_config

    configuration = Configuration()
    stated = kubeconfig or os.environ.get("KUBECONFIG", "")
    paths = stated or str(Path("~/.kube/config").expanduser())
    if stated or context or Path(paths).is_file():
        namespace = _from_files(configuration, paths, context)
    elif os.environ.get("KUBERNETES_SERVICE_HOST"):
        with _as_unconfigured("the pod's service account"):
            load_incluster_config(configuration)
        namespace = (_IN_POD / "namespace").read_text().strip()
    else:
        raise errors.Unconfigured(
            "no cluster: found no KUBECONFIG, no ~/.kube/config and no service account of a pod"
        )
    return Kube(configuration, namespace=namespace, qps=qps, burst=burst)


def _from_files(configuration: Any, paths: str, context: str) -> str:
    """Fill ``configuration``; returns the context's namespace."""
    from kubernetes.config import list_kube_config_contexts, load_kube_config

    with _as_unconfigured(paths):
        known, active = list_kube_config_contexts(paths)
        if context and context not in {each["name"] for each in known}:
            allowed = ", ".join(sorted(each["name"] for each in known))
            raise errors.Unconfigured(f"{paths}: found no context {context!r}, allowed: {allowed}")
        load_kube_config(paths, context=context or None, client_configuration=configuration)
    chosen = next((each for each in known if each["name"] == context), active)
    return str((chosen.get("context") or {}).get("namespace") or "default")


@contextmanager
def _as_unconfigured(where: str) -> Iterator[None]:
    from kubernetes.config import ConfigException

    try:
        yield
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise errors.Unconfigured(f"{where}: {error}") from None
