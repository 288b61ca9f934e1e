"""Which nodes a pod template admits, and pinning it to some of them."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.kube.affinity import (
    REQUIRED,
    Taint,
    admits,
    pinned,
    taints,
    tolerates,
    with_tolerations,
)

LABELS = {"kubernetes.io/hostname": "a", "zone": "z1", "rank": "7"}


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}}


def term(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, True),
        ({"nodeSelector": {"zone": "z1"}}, True),
        ({"nodeSelector": {"zone": "z2"}}, False),
        ({"nodeName": "node-a"}, True),
        ({"nodeName": "node-b"}, False),
        (required(term("zone", "In", "z1", "z2")), True),
        (required(term("zone", "NotIn", "z1")), False),
        (required(term("absent", "NotIn", "z1")), True),
        (required(term("zone", "Exists")), True),
        (required(term("absent", "Exists")), False),
        (required(term("absent", "DoesNotExist")), True),
        (required(term("rank", "Gt", "6")), True),
        (required(term("rank", "Lt", "6")), False),
        (required(term("zone", "Gt", "6")), False),
        (required(term("zone", "In", "z9"), term("zone", "In", "z1")), True),
        (required({}), False),
        (required(), False),
        (
            required(
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-a"]}]}
            ),
            True,
        ),
    ],
)
def test_a_template_admits_a_node_as_the_scheduler_would(
    spec: dict[str, Any], expected: bool
) -> None:
    assert admits(spec, "node-a", LABELS) is expected


def test_pinning_narrows_every_alternative() -> None:
    spec = required(term("zone", "In", "z1"), term("zone", "In", "z2"))
    made = {"affinity": pinned(spec["affinity"], ["b", "a"])}
    only = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["a", "b"]}
    assert made["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"] == [
        {"matchExpressions": [*term("zone", "In", "z1")["matchExpressions"], only]},
        {"matchExpressions": [*term("zone", "In", "z2")["matchExpressions"], only]},
    ]
    assert admits(made, "node-a", LABELS)
    assert not admits(made, "node-c", {**LABELS, "kubernetes.io/hostname": "c"})
    assert not admits(made, "node-b", {"kubernetes.io/hostname": "b", "zone": "z3"})


def test_pinning_keeps_what_else_was_wanted_and_changes_nothing_in_place() -> None:
    stated = {"podAntiAffinity": {"x": 1}}
    made = pinned(stated, ["a"])
    assert made["podAntiAffinity"] == {"x": 1}
    assert stated == {"podAntiAffinity": {"x": 1}}
    assert admits({"affinity": made}, "node-a", LABELS)


def test_taints_of_a_node_s_state_are_not_for_pods_to_tolerate() -> None:
    node = {
        "spec": {
            "taints": [
                {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
                {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
                {"key": "soft", "effect": "PreferNoSchedule"},
                {"key": "team", "value": "nlp", "effect": "NoExecute"},
            ]
        }
    }
    gpu, team = (
        Taint(key="nvidia.com/gpu", value="present"),
        Taint(key="team", value="nlp", effect="NoExecute"),
    )
    assert taints(node) == (gpu, team)
    assert gpu.toleration() == {
        "key": "nvidia.com/gpu",
        "operator": "Exists",
        "effect": "NoSchedule",
    }
    assert team.toleration()["value"] == "nlp"
    assert all(tolerates({"tolerations": [t.toleration()]}, t) for t in (gpu, team))


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "team", "operator": "Exists"}, True),
        ({"key": "team", "value": "nlp"}, True),
        ({"key": "team", "value": "cv"}, False),
        ({"key": "team", "operator": "Exists", "effect": "NoSchedule"}, False),
        ({"key": "else", "operator": "Exists"}, False),
    ],
)
def test_a_toleration_covers_a_taint_as_kubernetes_has_it(
    toleration: dict[str, str], expected: bool
) -> None:
    taint = Taint(key="team", value="nlp", effect="NoExecute")
    assert tolerates({"tolerations": [toleration]}, taint) is expected


def test_only_what_is_not_tolerated_yet_is_added() -> None:
    team = Taint(key="team", value="nlp")
    stated = [{"key": "team", "operator": "Exists"}]
    assert with_tolerations(stated, [team]) == stated
    assert with_tolerations(None, [team]) == [team.toleration()]
