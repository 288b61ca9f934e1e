"""Which nodes a pod may go to by what its template says, and how to narrow that down to some."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.kube.names import GPU, HOSTNAME

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_HARD = ("NoSchedule", "NoExecute")
_OF_KUBERNETES = "node.kubernetes.io/"  # set by Kubernetes for a node's state, which we read


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A taint that keeps pods away."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"

    def toleration(self) -> dict[str, str]:
        """What a pod says to be let in all the same."""
        if self.key == GPU or not self.value:
            return {"key": self.key, "operator": "Exists", "effect": self.effect}
        return {
            "key": self.key,
            "operator": "Equal",
            "value": self.value,
            "effect": self.effect,
        }


def taints(node: Mapping[str, Any]) -> tuple[Taint, ...]:
    """A node's hard taints, without those that Kubernetes sets for its state."""
    return tuple(
        Taint(key=each["key"], value=each.get("value") or "", effect=each["effect"])
        for each in (node.get("spec") or {}).get("taints") or ()
        if each["effect"] in _HARD and not each["key"].startswith(_OF_KUBERNETES)
    )


def tolerates(pod_spec: Mapping[str, Any], taint: Taint) -> bool:
    """Whether the pod may be on a node with ``taint``."""
    return any(_covers(each, taint) for each in pod_spec.get("tolerations") or ())


def _covers(toleration: Mapping[str, Any], taint: Taint) -> bool:
    if toleration.get("effect") not in (None, "", taint.effect):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint.key)
    same_key = toleration.get("key") == taint.key
    return same_key and (toleration.get("value") or "") == taint.value


def admits(pod_spec: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> bool:
    """Whether the pod's node selector and its required node affinity let it onto a node."""
    wanted = pod_spec.get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    if pod_spec.get("nodeName") not in (None, "", name):
        return False
    terms = required_terms(pod_spec)
    return terms is None or any(_term(each, name, labels) for each in terms)


def required_terms(pod_spec: Mapping[str, Any]) -> Sequence[Mapping[str, Any]] | None:
    """The terms of the required node affinity, of which one has to hold; None: there is none."""
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get(REQUIRED)
    return None if required is None else required.get("nodeSelectorTerms") or ()


def _term(term: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> bool:
    """A term holds where all of it does; an empty one never does."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(_holds(each, labels) for each in expressions) and all(
        _holds(each, {"metadata.name": name}) for each in fields
    )


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    return _OPERATORS[expression["operator"]](labels.get(key), values)


def _greater(found: str | None, values: Sequence[str], sign: int) -> bool:
    try:
        return found is not None and sign * (int(found) - int(values[0])) > 0
    except (ValueError, IndexError):
        return False


_OPERATORS: Mapping[str, Callable[[str | None, Sequence[str]], bool]] = {
    "In": lambda found, values: found in values,
    "NotIn": lambda found, values: found not in values,
    "Exists": lambda found, _: found is not None,
    "DoesNotExist": lambda found, _: found is None,
    "Gt": lambda found, values: _greater(found, values, 1),
    "Lt": lambda found, values: _greater(found, values, -1),
}


def pinned(
    affinity: Mapping[str, Any] | None, hostnames: Iterable[str], key: str = HOSTNAME
) -> dict[str, Any]:
    """``affinity`` with the nodes of these host names required as well: never more than before.

    Terms are alternatives, so each of them is narrowed.
    """
    only = {"key": key, "operator": "In", "values": sorted(set(hostnames))}
    made: dict[str, Any] = copy.deepcopy(dict(affinity or {}))
    node_affinity = dict(made.get("nodeAffinity") or {})
    terms = (node_affinity.get(REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    narrowed = [
        {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), only]}
        for term in terms
    ]
    node_affinity[REQUIRED] = {"nodeSelectorTerms": narrowed}
    made["nodeAffinity"] = node_affinity
    return made


def with_tolerations(
    stated: Sequence[Mapping[str, Any]] | None, needed: Iterable[Taint]
) -> list[dict[str, Any]]:
    """Tolerations as stated, and those that ``needed`` asks beyond them."""
    made = [dict(each) for each in stated or ()]
    for taint in needed:
        if not tolerates({"tolerations": made}, taint):
            made.append(taint.toleration())
    return made
