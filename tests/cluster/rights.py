"""Rights: what roles grant, and what the audit log says was used of it or refused.

A right is a path and a verb: ``("ray.io/rayjobs", "patch")``, ``("nodes", "list")``.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Iterator, Mapping

from tests.cluster.api import Object

Right = tuple[str, str]


def granted(role: Object) -> dict[str, set[str]]:
    """The verbs of each resource, by its path; the core group's by its name alone."""
    verbs: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                verbs.setdefault(_path(group, resource), set()).update(rule["verbs"])
    return verbs


def rights_of(verbs: Mapping[str, set[str]]) -> set[Right]:
    """The same, a right each."""
    return {(path, verb) for path, each in verbs.items() for verb in each}


def used(events: Iterable[Object]) -> set[Right]:
    """The rights that requests which were let in took."""
    return set(_rights(event for event in events if not _is_refused(event)))


def refused(events: Iterable[Object]) -> set[Right]:
    """The rights that were missing."""
    return set(_rights(event for event in events if _is_refused(event)))


def _is_refused(event: Object) -> bool:
    forbidden = event.get("responseStatus", {}).get("code") == http.client.FORBIDDEN
    decision = event.get("annotations", {}).get("authorization.k8s.io/decision", "")
    return bool(forbidden and decision != "allow")  # a proxy's 403 may be what it led to


def _rights(events: Iterable[Object]) -> Iterator[Right]:
    for event in events:
        if "objectRef" not in event:  # a path that is no resource: discovery, health
            continue
        of = event["objectRef"]
        parts = (of.get("resource", ""), of.get("subresource", ""))
        path = _path(of.get("apiGroup", ""), "/".join(filter(None, parts)))
        yield path, event["verb"]
        made = event.get("responseStatus", {}).get("code") == http.client.CREATED
        if event["verb"] == "patch" and made:  # server-side apply of what was not there
            yield path, "create"


def _path(group: str, resource: str) -> str:
    return f"{group}/{resource}" if group else resource
