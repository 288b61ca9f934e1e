"""An API server in memory, and an operator on it: steps are taken one by one, nothing runs beside.

Objects have uids, versions, generations and merge patches, as they do on a real one. What a
workload does after it was written is for the test to say (`Cluster.becomes`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from scheduler.controller.log import Log
from scheduler.controller.loop import Operator, Settings
from scheduler.kube.api import Listed, Patch, Raw
from scheduler.kube.client import Kube
from scheduler.kube.errors import AlreadyExists, KubeError, NotFound
from scheduler.kube.informer import key_of, watched
from scheduler.kube.launch import Capabilities
from scheduler.kube.names import RESOURCES, Resource

PATIENCE_SECONDS = 60.0
CREATED = "2026-12-01T00:00:00Z"
WATCHED = {each.resource.plural for each in watched()}


def merged(before: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(before) if isinstance(before, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


class Cluster:
    """The API server. ``refuses``: by (verb, plural), what it answers in place of doing it."""

    namespace = "default"

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Raw] = {}
        self.asked: list[tuple[str, str, str]] = []  # verb, plural, key
        self.refuses: dict[tuple[str, str], Callable[[Raw], KubeError | None]] = {}
        self.dashboard: Callable[[Mapping[str, str]], bytes] = lambda headers: b"{}"
        self._versions = 0

    # -- as the operator asks ----------------------------------------------------------------------

    def get(self, resource: Resource, name: str, namespace: str = "") -> Raw:
        return copy.deepcopy(self._there(resource, name, namespace))

    def list(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> Listed:
        wanted = dict(part.split("=") for part in labels.split(",") if "=" in part)
        found = [
            copy.deepcopy(raw)
            for (plural, key), raw in self.objects.items()
            if plural == resource.plural
            and (not namespace or key.startswith(f"{namespace}/"))
            and wanted.items() <= (raw["metadata"].get("labels") or {}).items()
        ]
        return Listed(items=tuple(found), resource_version=str(self._versions))

    def watch(self, resource: Resource, version: str, *_: Any, **more: Any) -> Any:
        raise AssertionError("steps are told what there is")

    def create(self, resource: Resource, manifest: Raw, *, dry_run: bool = False) -> Raw:
        self._may("create", resource, manifest)
        key = key_of(manifest)
        if (resource.plural, key) in self.objects:
            raise AlreadyExists(f"{resource.plural} {key} already exists", status=409)
        made = copy.deepcopy(manifest)
        own = made["metadata"]
        own |= {"uid": f"uid-{self._versions}", "generation": 1}
        own.setdefault("creationTimestamp", CREATED)
        self.objects[resource.plural, key] = made
        return self._written(made)

    def apply(self, resource: Resource, manifest: Raw, **_: Any) -> Raw:
        own = manifest["metadata"]
        if (resource.plural, key_of(manifest)) not in self.objects:
            return self.create(resource, manifest)
        return self.patch(resource, own["name"], manifest, own.get("namespace", ""))

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        namespace: str = "",
        *,
        subresource: str = "",
    ) -> Raw:
        raw = self._there(resource, name, namespace)
        self._may(f"patch {subresource}".strip(), resource, raw)
        before = copy.deepcopy(raw.get("spec"))
        if isinstance(patch, list):
            for each in patch:
                if each["op"] == "add":
                    raw["spec"][each["path"].rpartition("/")[2]] = each["value"]
        else:
            kept = {k: v for k, v in patch.items() if (k == "status") == (subresource == "status")}
            made = merged(raw, kept)
            raw.clear()
            raw.update(made)
        raw["metadata"]["generation"] += before != raw.get("spec")
        return self._written(raw)

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        propagation: str = "Background",
        uid: str = "",
    ) -> None:
        key = f"{namespace}/{name}"
        raw = self.objects.get((resource.plural, key))
        if raw is None:
            return
        self._may("delete", resource, raw)
        if raw["metadata"].get("finalizers"):
            raw["metadata"].setdefault("deletionTimestamp", CREATED)
            self._written(raw)
        else:
            del self.objects[resource.plural, key]

    def proxied(self, *asked: Any) -> bytes:
        return self.dashboard(asked[-1])

    def _there(self, resource: Resource, name: str, namespace: str) -> Raw:
        found = self.objects.get((resource.plural, f"{namespace}/{name}"))
        if found is None:
            raise NotFound(f"{resource.plural} {name} not found", status=404)
        return found

    def _may(self, verb: str, resource: Resource, raw: Raw) -> None:
        self.asked.append((verb, resource.plural, key_of(raw)))
        refuse = self.refuses.get((verb, resource.plural))
        if refuse is not None and (error := refuse(raw)) is not None:
            raise error

    def _written(self, raw: Raw) -> Raw:
        self._versions += 1
        raw["metadata"]["resourceVersion"] = str(self._versions)
        return copy.deepcopy(raw)

    # -- as a test asks ----------------------------------------------------------------------------

    def add(self, raw: Raw) -> Raw:
        """An object of somebody's; without a version it would never be new."""
        made = copy.deepcopy(raw)
        made["metadata"].setdefault("uid", f"uid-{made['metadata']['name']}")
        made["metadata"].setdefault("generation", 1)
        made["metadata"].setdefault("creationTimestamp", CREATED)
        plural = RESOURCES[raw["apiVersion"], raw["kind"]].plural
        self.objects[plural, key_of(made)] = made
        return self._written(made)

    def becomes(self, plural: str, key: str, **status: Any) -> None:
        """The status of an object is this now."""
        raw = self.objects[plural, key]
        raw["status"] = status
        self._written(raw)

    def condition(self, key: str, kind: str) -> Raw:
        """Of a GpuJob; without fields where it is not stated."""
        found = (self.objects["gpujobs", key].get("status") or {}).get("conditions") or ()
        return next((each for each in found if each["type"] == kind), {})

    def events(self, reason: str) -> tuple[Raw, ...]:
        """Those of a reason."""
        there = tuple(self.objects.items())  # they are written beside the steps
        return tuple(r for (plural, _), r in there if plural == "events" and r["reason"] == reason)


class Play:
    """An operator that is told of all that there is before each of its steps."""

    def __init__(self, cluster: Cluster, settings: Settings, can: Capabilities) -> None:
        self.cluster = cluster
        self.lines: list[str] = []
        self.operator = Operator(
            cast(Kube, cluster), settings, can=can, log=Log(self.lines.append), watches=()
        )
        self._known: dict[tuple[str, str], str] = {}

    def step(self, count: int = 1) -> None:
        """It looks, decides and acts; what it asked for is done before this returns."""
        for _ in range(count):
            self.tell()
            self.operator.step(0.0)
            while self.operator.is_writing:
                time.sleep(0.001)

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Steps until it holds: what was written is heard of a step or two later."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            self.step()
            if found := holds():
                return found
            time.sleep(0.01)
        raise AssertionError(f"it never comes: {what}; {''.join(self.lines[-20:])}")

    def tell(self) -> None:
        """What has changed, as watches would."""
        there = {
            handle: raw for handle, raw in self.cluster.objects.items() if handle[0] in WATCHED
        }
        for handle, raw in there.items():
            version = raw["metadata"]["resourceVersion"]
            if self._known.get(handle) != version:
                self._known[handle] = version
                self.operator.sight.take(*handle, copy.deepcopy(raw))
        for handle in self._known.keys() - there.keys():
            del self._known[handle]
            self.operator.sight.take(*handle, None)

    def end(self) -> None:
        """It is no more; another may be made on the same cluster."""
        self.operator.end()
