"""What is asked of an API server, as types: raw objects, lists, changes, and the calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from scheduler.kube.names import Resource

Raw: TypeAlias = dict[str, Any]
Patch: TypeAlias = Raw | list[Raw]  # a merge patch, or the operations of a JSON patch


def mapping_of(text: bytes) -> Raw | None:
    """What a JSON object says; None for what is none.

    >>> mapping_of(b'{"a": 1}'), mapping_of(b"[1]"), mapping_of(b"<html>")
    ({'a': 1}, None, None)
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A list, and the version of the world that it shows."""

    items: tuple[Raw, ...]
    resource_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a watch tells: ADDED, MODIFIED, DELETED, or BOOKMARK (of the version alone)."""

    type: str
    object: Raw

    @property
    def resource_version(self) -> str:
        """Where to watch on from after this one."""
        return str(self.object["metadata"]["resourceVersion"])


class Watching(Protocol):
    """The changes of one watch, until the server ends it or somebody calls `stop`."""

    def __iter__(self) -> Iterator[Change]: ...

    def stop(self) -> None:
        """End it, from any thread."""


class Api(Protocol):
    """What the rest of Flopwise asks of an API server; `scheduler.kube.client.Kube` is the real
    one."""

    namespace: str

    def get(self, resource: Resource, name: str, namespace: str = "") -> Raw: ...

    def list(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> Listed: ...

    def watch(
        self,
        resource: Resource,
        resource_version: str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
    ) -> AbstractContextManager[Watching]: ...

    def create(self, resource: Resource, manifest: Raw, *, dry_run: bool = False) -> Raw: ...

    def replace(self, resource: Resource, manifest: Raw) -> Raw: ...

    def apply(
        self, resource: Resource, manifest: Raw, *, subresource: str = "", dry_run: bool = False
    ) -> Raw: ...

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        namespace: str = "",
        *,
        subresource: str = "",
    ) -> Raw: ...

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        propagation: str = "Background",
        uid: str = "",
    ) -> None: ...
