"""The pods of this node, and what claims stand for, from the API server: two reads over HTTPS.

The kubelet names pods without their labels, and claimed devices without their UUIDs. A service
account that may list pods and ResourceSlices fills that in. It is read without a client library:
those weigh more than all the rest of the collector.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from telemetry.owners import Pod
from telemetry.plain import plain

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CALL_SECONDS = 10.0
ANSWER_BYTES_MOST = 64 * 2**20
PAGE = 500
_ENDED = ("Succeeded", "Failed")
# Under Kubernetes 1.34 the objects are there in beta, with the same fields one level deeper.
_SLICES = (
    "/apis/resource.k8s.io/v1/resourceslices",
    "/apis/resource.k8s.io/v1beta1/resourceslices",
)


class ApiServerError(RuntimeError):
    """The API server gave no answer that can be used; the message says to what, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    """Where it is, and the files by which it is trusted and trusts us."""

    host: str
    port: int
    account: Path = ACCOUNT
    timeout_seconds: float = CALL_SECONDS

    def pods(self, node: str) -> tuple[Pod, ...]:
        """The pods of a node. Raises ``ApiServerError``."""
        selector = {"fieldSelector": f"spec.nodeName={node}"}
        path = "/api/v1/pods"
        with self._formed(path):
            return tuple(_pod(item) for item in self._items(path, selector))

    def claimed(self, node: str) -> dict[tuple[str, str], str]:
        """The UUIDs of a node's devices by pool and name; none where there are no ResourceSlices.

        Raises ``ApiServerError``.
        """
        selector = {"fieldSelector": f"spec.nodeName={node}"}
        for path in _SLICES:
            try:
                with self._formed(path):
                    return dict(_devices(self._items(path, selector)))
            except _AbsentError:
                continue
        return {}

    @contextmanager
    def _formed(self, path: str) -> Iterator[None]:
        """What has not the form of its kind is the API server's error, and ends no thread."""
        try:
            yield
        except (AttributeError, TypeError, ValueError) as error:
            raise ApiServerError(f"{self._name(path)}: found {error}, allowed: a list") from None

    def _items(self, path: str, parameters: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        rest = ""
        while True:
            page = {"limit": str(PAGE), **parameters, **({"continue": rest} if rest else {})}
            answer = self._get(f"{path}?{urlencode(page, quote_via=quote)}")
            yield from answer.get("items") or ()
            rest = str((answer.get("metadata") or {}).get("continue") or "")
            if not rest:
                return

    def _get(self, path: str) -> Mapping[str, Any]:
        try:
            status, body = self._read(path)
            answer = json.loads(body) if status == http.client.OK else None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise ApiServerError(f"{self._name(path)}: {error}") from None
        if status == http.client.NOT_FOUND:
            raise _AbsentError(f"{self._name(path)}: not found")
        if not isinstance(answer, dict):
            raise ApiServerError(f"{self._name(path)}: found status {status}, allowed: a list")
        return answer

    def _read(self, path: str) -> tuple[int, bytes]:
        # Both files are replaced while we run: they are read for each call.
        context = ssl.create_default_context(cafile=self.account / "ca.crt")
        token = (self.account / "token").read_text(encoding="ascii").strip()
        connection = http.client.HTTPSConnection(
            self.host, self.port, timeout=self.timeout_seconds, context=context
        )
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            body = answer.read(ANSWER_BYTES_MOST + 1)
        finally:
            connection.close()
        if len(body) > ANSWER_BYTES_MOST:
            raise ValueError(f"found more than {ANSWER_BYTES_MOST} bytes, allowed: less")
        return answer.status, body

    def _name(self, path: str) -> str:
        return f"https://{self.host}:{self.port}{path.partition('?')[0]}"


class _AbsentError(ApiServerError):
    """The API server does not have that kind of object."""


def in_cluster(environment: Mapping[str, str] = os.environ) -> ApiServer | None:
    """The API server of the cluster that this process runs in; None outside of one."""
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    return ApiServer(host=host, port=int(port)) if host and port.isdigit() else None


def _pod(item: Mapping[str, Any]) -> Pod:
    metadata, status = item.get("metadata") or {}, item.get("status") or {}
    return Pod(
        namespace=plain(metadata.get("namespace", "")),
        name=plain(metadata.get("name", "")),
        uid=_kubelets_uid(metadata),
        labels={plain(k): plain(v) for k, v in (metadata.get("labels") or {}).items()},
        has_ended=status.get("phase") in _ENDED,
    )


def _kubelets_uid(metadata: Mapping[str, Any]) -> str:
    """The UID that cgroups have: of a static pod, the hash of its file, not of its mirror."""
    static = (metadata.get("annotations") or {}).get("kubernetes.io/config.hash")
    return str(static or metadata.get("uid", ""))


def _devices(slices: Iterator[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str], str]]:
    for item in slices:
        spec = item.get("spec") or {}
        pool = str((spec.get("pool") or {}).get("name", ""))
        for device in spec.get("devices") or ():
            attributes = device.get("attributes") or (device.get("basic") or {}).get("attributes")
            uuid = ((attributes or {}).get("uuid") or {}).get("string")
            if uuid:
                yield (pool, str(device.get("name", ""))), str(uuid)
