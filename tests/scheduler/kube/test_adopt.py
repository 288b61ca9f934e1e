"""Workloads that were written for others, as jobs; and the patches that pin and release them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from scheduler.kube.adopt import (
    GATE,
    Adopted,
    Assumed,
    Declined,
    Places,
    adopt,
    adopted_name,
    forget_start,
    gated,
    pin_pod,
    release,
    suspend,
)
from scheduler.kube.affinity import REQUIRED, Taint, admits
from scheduler.kube.names import JOB, JOBS, PINNED, QUEUE
from scheduler.kube.observe import fleet, machines
from tests.scheduler.kube.objects import node, pool

Raw = dict[str, Any]
SPOT = {"key": "spot", "value": "yes", "effect": "NoSchedule"}
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
NODES = [
    node("a", labels={"zone": "z1"}, taints=[GPU_TAINT]),
    node("b", labels={"zone": "z2"}, taints=[GPU_TAINT]),
    node("s", product="NVIDIA-L4", gpus=1, taints=[SPOT]),
]
POOLS = [pool("h100"), pool("l4", accelerator="l4", gpusPerNode=1)]


def places() -> Places:
    return Places(fleet(machines(NODES, []), POOLS))


def template(gpus: int = 8, count: int = 1, **spec: Any) -> Raw:
    asked = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    container = {
        "name": "c",
        "image": "x",
        "resources": {"limits": asked, "requests": {"cpu": "4", "memory": "8Gi"}},
    }
    return {"spec": {"containers": [container], **spec}}


def workload(kind: str, spec: Raw, **annotations: str) -> Raw:
    versions = {"Job": "batch/v1", "JobSet": "jobset.x-k8s.io/v1alpha2"}
    stated = {key.replace("__", "."): value for key, value in annotations.items()}
    return {
        "apiVersion": versions.get(kind, "ray.io/v1"),
        "kind": kind,
        "metadata": {
            "name": "train",
            "namespace": "ml",
            "uid": "u7",
            "resourceVersion": "42",
            "labels": {QUEUE: "research", "flopwise.dev/team": "nlp", "app": "x"},
            "annotations": {f"flopwise.dev/{key}": value for key, value in stated.items()},
        },
        "spec": spec,
    }


def a_job(made: Raw | None = None, **annotations: str) -> Raw:
    spec = {"suspend": True, "parallelism": 2, "completions": 2}
    return workload("Job", spec | {"template": made or template()}, **annotations)


def ray_cluster(*workers: tuple[int, Raw], head: Raw | None = None) -> Raw:
    return {
        "headGroupSpec": {"rayStartParams": {}, "template": head or template(0)},
        "workerGroupSpecs": [
            {"groupName": f"g{i}", "replicas": count, "template": made}
            for i, (count, made) in enumerate(workers)
        ],
    }


def adopted(raw: Raw, assumed: Assumed | None = None) -> Adopted:
    found = adopt(raw, places(), assumed or Assumed())
    assert isinstance(found, Adopted), found
    return found


def declined(raw: Raw) -> tuple[str, str]:
    found = adopt(raw, places())
    assert isinstance(found, Declined), found
    return found.reason, found.message


def patched(raw: Raw, patch: Raw) -> Raw:
    """What a merge patch makes of an object, as RFC 7396 has it."""
    made = copy.deepcopy(raw)

    def over(base: Raw, top: Raw) -> None:
        for key, value in top.items():
            if value is None:
                base.pop(key, None)
            elif isinstance(value, dict):
                over(base.setdefault(key, {}), value)
            else:
                base[key] = value

    over(made, patch)
    return made


def test_a_suspended_job_is_a_task_of_a_replica_a_pod() -> None:
    found = adopted(a_job(hours="3"))
    task = found.job.spec.task
    assert task is not None
    assert (task.replicas, task.gpus, task.cpus, task.memory_gib) == (2, 8, 4.0, 8.0)
    assert task.hours == {"h100-sxm5-80gb": 3.0, "l4": 3.0}
    assert (found.job.metadata.name, found.job.metadata.namespace) == ("train.job", "ml")
    assert found.job.spec.queue == "research"
    assert found.job.metadata.labels == {QUEUE: "research", "flopwise.dev/team": "nlp"}
    assert (found.resource, found.uid, found.hours_assumed) == (JOBS, "u7", False)
    assert found.job.spec.placement.pools == ("h100",)  # the other's taint is not tolerated
    assert found.nodes == ()


def test_two_workloads_whose_names_begin_alike_are_two_jobs() -> None:
    one, other = a_job(), a_job()
    one["metadata"]["name"] = "x" * 60 + "one"
    other["metadata"]["name"] = "x" * 60 + "two"
    first, second = adopted_name(one), adopted_name(other)
    assert first != second
    assert len(first) == len(second) == 63  # a label's value
    assert first.endswith(".job")
    one["metadata"]["name"] = "x" * 59
    assert adopted_name(one) == "x" * 59 + ".job"  # 59 + 4 = 63: it fits


def test_annotations_say_what_the_manifest_cannot() -> None:
    annotations: Raw = {
        "hours__h100": "2.5",
        "deadline": "2026-12-05T00:00:00Z",
        "priority": "7",
        "preemptible": "false",
        "checkpoint__intervalSeconds": "600",
        "placement__jurisdictions": "US, EU",
    }
    spec = adopted(a_job(**annotations)).job.spec
    assert spec.task is not None
    assert spec.task.hours == {"h100-sxm5-80gb": 2.5}
    assert (spec.priority, spec.preemptible) == (7, False)
    assert spec.deadline is not None
    assert spec.deadline.day == 5
    assert spec.checkpoint.interval_seconds == 600
    assert spec.placement.jurisdictions == ("US", "EU")


def test_wrong_annotations_are_all_said_with_their_names() -> None:
    reason, message = declined(a_job(hours="soon", prioritty="7", deadline="tomorrow"))
    assert reason == "Invalid"
    assert 'metadata.annotations[flopwise.dev/hours]: found "soon"' in message
    assert "flopwise.dev/prioritty]: unknown annotation, nearest: priority" in message
    assert 'spec.deadline: found "tomorrow"' in message


def test_without_hours_the_deadline_counts_and_without_one_what_is_assumed() -> None:
    def hours(raw: Raw, assumed: Assumed | None = None) -> tuple[float, bool]:
        found = adopted(raw, assumed)
        assert found.job.spec.task is not None
        return found.job.spec.task.hours["h100-sxm5-80gb"], found.hours_assumed

    limited = a_job()
    limited["spec"]["activeDeadlineSeconds"] = 7200
    assert hours(limited) == (2.0, True)
    assert hours(a_job(), Assumed(hours=0.5)) == (0.5, True)
    service = workload("RayService", {"rayClusterConfig": ray_cluster((1, template(1)))})
    service["spec"]["rayClusterConfig"]["suspend"] = True
    assert hours(service) == (8760.0, True)


def test_the_priority_is_that_of_the_class() -> None:
    raw = a_job(template(priorityClassName="high"))
    assert adopted(raw, Assumed(priorities={"high": 1000})).job.spec.priority == 1000
    assert adopted(raw).job.spec.priority == 0


@pytest.mark.parametrize(
    ("raw", "replicas", "gpus"),
    [
        (
            workload(
                "JobSet",
                {
                    "suspend": True,
                    "replicatedJobs": [
                        {
                            "name": "driver",
                            "replicas": 1,
                            "template": {"spec": {"template": template(0)}},
                        },
                        {
                            "name": "w",
                            "replicas": 3,
                            "template": {"spec": {"parallelism": 2, "template": template(4)}},
                        },
                    ],
                },
            ),
            6,
            4,
        ),
        (
            workload(
                "RayJob",
                {
                    "suspend": True,
                    "shutdownAfterJobFinishes": True,
                    "rayClusterSpec": ray_cluster((2, template(8)), (1, template(8))),
                },
            ),
            3,
            8,
        ),
        (
            workload(
                "RayService",
                {
                    "rayClusterConfig": {
                        "suspend": True,
                        **ray_cluster((2, template(1)), head=template(1)),
                    }
                },
            ),
            3,
            1,
        ),
    ],
)
def test_every_kind_is_a_gang_of_the_pods_that_ask_for_gpus(
    raw: Raw, replicas: int, gpus: int
) -> None:
    task = adopted(raw).job.spec.task
    assert task is not None
    assert (task.replicas, task.gpus) == (replicas, gpus)


def test_a_mig_instance_and_a_share_of_a_gpu_are_what_they_are() -> None:
    asked = template()
    asked["spec"]["containers"][0]["resources"]["limits"] = {"nvidia.com/mig-1g.10gb.me": "1"}
    task = adopted(a_job(asked)).job.spec.task
    assert task is not None
    assert task.mig_profile == "1g.10gb+me"
    labels = {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "mps"}
    shared = node("x", labels=labels, allocatable={"nvidia.com/gpu.shared": "32"})
    asked["spec"]["containers"][0]["resources"]["limits"] = {"nvidia.com/gpu.shared": "1"}
    found = adopt(a_job(asked), Places(fleet(machines([shared], []), [pool()])))
    assert isinstance(found, Adopted)
    assert found.job.spec.task is not None
    assert found.job.spec.task.gpu_fraction == 0.25


def test_what_is_nothing_to_us_is_nothing() -> None:
    raw = a_job()
    del raw["metadata"]["labels"][QUEUE]
    assert adopt(raw, places()) is None


def test_kueue_s_and_what_runs_already_are_left_alone() -> None:
    kueue = a_job()
    kueue["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "q"
    assert declined(kueue)[0] == "Kueue"
    running = a_job()
    running["spec"]["suspend"] = False
    assert declined(running)[0] == "NotSuspended"
    del running["spec"]["suspend"]
    assert declined(running)[0] == "NotSuspended"


def test_what_cannot_be_planned_says_why() -> None:
    assert declined(a_job(template(0))) == ("NoGpus", "no pod of it asks for a GPU")
    uneven = workload(
        "RayJob",
        {
            "suspend": True,
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": ray_cluster((1, template(8)), (1, template(4))),
        },
    )
    reason, message = declined(uneven)
    assert reason == "Uneven"
    assert message.startswith("found pods of 4 nvidia.com/gpu and 8 nvidia.com/gpu, allowed:")
    uneven["spec"]["shutdownAfterJobFinishes"] = False
    assert declined(uneven)[0] == "Invalid"
    assert "spec.shutdownAfterJobFinishes" in declined(uneven)[1]


def test_what_its_owner_pinned_is_respected() -> None:
    in_zone = adopted(a_job(template(nodeSelector={"zone": "z1"})))
    assert (in_zone.job.spec.placement.pools, in_zone.nodes) == (("h100",), ("a",))
    tolerant = adopted(a_job(template(tolerations=[{"operator": "Exists"}])))
    assert (tolerant.job.spec.placement.pools, tolerant.nodes) == (("h100", "l4"), ())
    one = adopted(a_job(template(tolerations=[{"operator": "Exists"}]), placement__pools="l4"))
    assert one.job.spec.placement.pools == ("l4",)
    nowhere = declined(a_job(template(nodeSelector={"zone": "z9"})))
    assert nowhere[0] == "NoNodes"


def test_releasing_pins_and_lets_run_in_one_patch_that_fails_if_it_changed() -> None:
    raw = a_job(template(nodeSelector={"zone": "z1"}))
    patch = release(raw, ["host-a"], [Taint(key="spot", value="yes")])
    assert patch["metadata"]["resourceVersion"] == "42"
    made = patched(raw, patch)
    assert made["spec"]["suspend"] is False
    pod = made["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"zone": "z1"}
    assert admits(pod, "a", {"kubernetes.io/hostname": "host-a", "zone": "z1"})
    assert not admits(pod, "b", {"kubernetes.io/hostname": "host-b", "zone": "z1"})
    assert [each["key"] for each in pod["tolerations"]] == ["nvidia.com/gpu", "spot"]
    assert made["spec"]["template"]["metadata"]["labels"] == {JOB: "train_job"}
    assert pod["containers"] == raw["spec"]["template"]["spec"]["containers"]
    # Of the template only what Kubernetes lets be changed is in the patch.
    assert patch["spec"]["template"]["spec"].keys() == {"affinity", "tolerations"}


def test_a_workload_of_ours_is_known_again_after_a_restart() -> None:
    raw = a_job(template(nodeSelector={"zone": "z1"}))
    running = patched(raw, release(raw, ["host-a"]))
    assert adopted(running) == adopted(raw)


def test_pinned_anew_it_is_as_its_owner_wrote_it_and_elsewhere() -> None:
    raw = a_job(template(affinity={"podAffinity": {"x": 1}}))
    once = patched(raw, release(raw, ["host-a"], [Taint(key="spot", value="yes")]))
    stopped = patched(once, suspend(once))
    assert stopped["spec"]["suspend"] is True
    again = patched(stopped, release(stopped, ["host-b"]))
    assert again == patched(raw, release(raw, ["host-b"]))
    terms = again["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][REQUIRED]
    assert len(terms["nodeSelectorTerms"]) == 1
    assert forget_start() == {"status": {"startTime": None}}


def test_a_ray_job_s_workers_are_pinned_and_its_head_is_not() -> None:
    spec = {
        "suspend": True,
        "shutdownAfterJobFinishes": True,
        "entrypoint": "x",
        "rayClusterSpec": ray_cluster((2, template(8)), (1, template(0))),
    }
    raw = workload("RayJob", spec)
    patch = release(raw, ["host-a", "host-b"])
    made = patched(raw, patch)
    cluster = made["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]
    gpu, cpu = (group["template"] for group in cluster["workerGroupSpecs"])
    assert "affinity" not in head["spec"]
    assert "affinity" not in cpu["spec"]
    assert REQUIRED in gpu["spec"]["affinity"]["nodeAffinity"]
    assert {t["metadata"]["labels"][JOB] for t in (head, gpu, cpu)} == {"train_rayjob"}
    assert (made["spec"]["suspend"], made["spec"]["entrypoint"]) == (False, "x")
    again = patched(made, release(patched(made, suspend(made)), ["host-a"]))
    assert again["spec"] == patched(raw, release(raw, ["host-a"]))["spec"]


def test_a_service_is_released_by_its_cluster() -> None:
    raw = workload("RayService", {"rayClusterConfig": ray_cluster((1, template(1)))})
    raw["spec"]["rayClusterConfig"]["suspend"] = True
    made = patched(raw, release(raw, ["host-a"]))
    assert made["spec"]["rayClusterConfig"]["suspend"] is False
    assert "suspend" not in made["spec"]
    assert suspend(raw) == {"spec": {"rayClusterConfig": {"suspend": True}}}


def job_set() -> Raw:
    jobs = [{"name": "w", "replicas": 2, "template": {"spec": {"template": template(8)}}}]
    return workload("JobSet", {"suspend": True, "replicatedJobs": jobs})


def test_a_job_set_on_one_node_is_pinned_by_what_may_be_changed_of_it() -> None:
    raw = job_set()
    made = patched(raw, release(raw, ["host-a"]))
    pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"kubernetes.io/hostname": "host-a"}
    assert "affinity" not in pod
    assert "schedulingGates" not in pod


def test_a_job_set_on_several_nodes_comes_gated_and_each_pod_is_sent_to_its_own() -> None:
    raw = job_set()
    made = patched(raw, release(raw, ["host-a", "host-b"]))
    template_spec = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert template_spec["schedulingGates"] == [{"name": GATE}]
    pods = [
        {"metadata": {"name": name}, "spec": {"schedulingGates": gates}}
        for name, gates in (
            ("w-1", [{"name": "other"}, {"name": GATE}]),
            ("w-0", [{"name": GATE}]),
            ("w-2", []),
        )
    ]
    first, second = gated(pods)
    assert (first["metadata"]["name"], second["metadata"]["name"]) == ("w-0", "w-1")
    assert pin_pod(first, "host-a") == {
        "spec": {"nodeSelector": {"kubernetes.io/hostname": "host-a"}, "schedulingGates": None}
    }
    assert pin_pod(second, "host-b")["spec"]["schedulingGates"] == [{"name": "other"}]
    stopped = patched(made, suspend(made))
    again = patched(stopped, release(stopped, ["host-b"]))
    assert again["spec"] == patched(raw, release(raw, ["host-b"]))["spec"]


def test_thousands_that_say_the_same_are_looked_up_once() -> None:
    where = places()
    for _ in range(3):
        assert isinstance(adopt(a_job(), where), Adopted)
    assert len(where._known) == 1


def test_what_was_before_is_kept_with_it() -> None:
    raw = a_job(template(nodeSelector={"zone": "z1"}))
    annotations = release(raw, ["host-a"])["metadata"]["annotations"]
    assert json.loads(annotations[PINNED]) == [{"nodeSelector": {"zone": "z1"}}]
