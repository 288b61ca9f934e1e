"""What a cluster lacks, and what to mend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.kube.doctor import RIGHTS, Check, Facts, Verdict, checks
from scheduler.kube.observe import machines
from tests.scheduler.kube.objects import node

CRDS = ("gpupools.flopwise.dev", "gpuqueues.flopwise.dev", "gpujobs.flopwise.dev")
RAY = ("rayjobs.ray.io", "rayservices.ray.io")


def crd(name: str, auth: bool = True) -> dict[str, Any]:
    cluster: dict[str, Any] = {"properties": {"authOptions": {}}} if auth else {}
    schema = {"properties": {"spec": {"properties": {"rayClusterSpec": cluster}}}}
    version = {"name": "v1", "schema": {"openAPIV3Schema": schema}}
    return {"metadata": {"name": name}, "spec": {"versions": [version]}}


def operator(image: str, phase: str = "Running") -> dict[str, Any]:
    return {
        "metadata": {"labels": {"app.kubernetes.io/name": "kuberay-operator"}},
        "spec": {"containers": [{"image": image}]},
        "status": {"phase": phase},
    }


def facts(*nodes: dict[str, Any], **more: Any) -> Facts:
    """A cluster in which all is well, but for ``more``."""
    made = nodes or (node("a"),)
    good = Facts(
        url="https://api",
        version={"gitVersion": "v1.36.3"},
        skew_seconds=0.4,
        refused=(),
        nodes=made,
        machines=machines(made, ()),
        objects=(),
        crds=tuple(map(crd, (*CRDS, *RAY))),
        kuberay=(operator("quay.io/kuberay/operator:v1.5.1"),),
        prometheus=("monitoring/prometheus",),
    )
    return replace(good, **more)


def of(name: str, found: Facts) -> Check:
    return next(check for check in checks(found) if check.name == name)


def test_where_all_is_well_nothing_is_to_mend() -> None:
    found = checks(facts())
    assert {check.verdict for check in found} == {Verdict.OK}
    assert [check.mend for check in found] == [""] * len(found)
    assert of("device plugin", facts()).found == "8 GPUs on 1 nodes"


def test_a_server_that_does_not_answer_is_the_only_finding() -> None:
    (check,) = checks(Facts(url="https://api", errors={"version": "refused"}))
    assert (check.verdict, check.found) == (Verdict.FAIL, "refused")


@pytest.mark.parametrize(
    ("name", "more", "verdict", "found"),
    [
        ("API server", {"version": {"gitVersion": "v1.27.9"}}, Verdict.FAIL, "v1.27.9"),
        ("clock", {"skew_seconds": 3.0}, Verdict.WARN, "3 s ahead of us"),
        ("clock", {"skew_seconds": -60.0}, Verdict.FAIL, "60 s behind us"),
        ("clock", {"skew_seconds": None, "errors": {"clock": "gone"}}, Verdict.SKIP, "gone"),
        ("permissions", {"refused": RIGHTS[:1]}, Verdict.WARN, "may not list nodes"),
        ("custom resources", {"crds": ()}, Verdict.FAIL, "missing: GpuPool, GpuQueue, GpuJob"),
        ("KubeRay", {"crds": tuple(map(crd, CRDS))}, Verdict.WARN, "definitions"),
        ("KubeRay", {"kuberay": ()}, Verdict.WARN, "no pod"),
        ("KubeRay", {"kuberay": (operator("x/operator:v1.3.2"),)}, Verdict.WARN, "1.3.2"),
        ("KubeRay", {"kuberay": (operator("x/operator:latest"),)}, Verdict.OK, "not known"),
        ("Prometheus", {"prometheus": ()}, Verdict.WARN, "nobody keeps them"),
    ],
)
def test_what_is_not_well_is_said_with_what_to_mend(
    name: str, more: dict[str, Any], verdict: Verdict, found: str
) -> None:
    check = of(name, facts(**more))
    assert check.verdict is verdict
    assert found.replace("definitions", "custom resources are missing") in check.found
    assert bool(check.mend) is (verdict is not Verdict.OK)


def test_an_old_kuberay_sets_no_token() -> None:
    old = facts(crds=tuple(crd(name, auth=False) for name in (*CRDS, *RAY)))
    check = of("Ray's token", old)
    assert check.verdict is Verdict.WARN
    assert "1.5.1" in check.mend


def test_gpus_that_nobody_advertises_are_found_by_their_label() -> None:
    silent = node("b", gpus=0)
    check = of("device plugin", facts(node("a"), silent))
    assert check.verdict is Verdict.FAIL
    assert check.found.endswith("advertising none: b")
    none = of("device plugin", facts(node("c", gpus=0, product="")))
    assert none.found.startswith("no node advertises nvidia.com/gpu")


def test_labels_that_are_missing_or_unknown_are_named() -> None:
    assert of("GPU labels", facts(node("a", product=""))).verdict is Verdict.FAIL
    unknown = of("GPU labels", facts(node("a", product="NVIDIA-X999")))
    assert (unknown.verdict, unknown.found) == (Verdict.WARN, "not in the catalog: NVIDIA-X999")


def test_nodes_that_get_nothing_new_say_why() -> None:
    check = of("GPU nodes", facts(node("a", unschedulable=True), node("b", ready=False)))
    assert check.found == "get nothing new: a (cordoned), b (not ready: kubelet stopped)"


def test_many_are_counted_beyond_the_first_few() -> None:
    many = tuple(node(f"n{i}", gpus=0) for i in range(8))
    assert of("device plugin", facts(*many)).found.endswith("n4, and 3 more nodes")


def test_objects_that_cannot_be_read_are_said() -> None:
    bad = {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuPool",
        "metadata": {"name": "p"},
        "spec": {"accelerator": "h999", "gpusPerNode": 8},
    }
    check = of("objects", facts(objects=(bad,)))
    assert check.verdict is Verdict.FAIL
    assert "GpuPool p: spec.accelerator" in check.found
