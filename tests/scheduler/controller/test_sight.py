"""What the API server tells, as events for a state: nothing twice, nothing lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cost_models.calibration import Calibration, Measurement, Subject
from planner.problem import Grid
from scheduler.controller.actions import Being
from scheduler.controller.decide import run
from scheduler.controller.sight import Settings, Sight
from scheduler.controller.state import Event, JobArrived, Phase, State
from scheduler.controller.summary import pool_status, stocks
from scheduler.controller.told import record_text
from scheduler.kube.holders import Holders
from scheduler.kube.names import ATTEMPT, JOB, PLACED, RECORD
from tests.scheduler.kube.objects import node, pod

NOW = datetime(2026, 12, 1, tzinfo=UTC)
H100 = "h100-sxm5-80gb"


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def empty() -> State:
    return State(now=NOW, grid=Grid(start=NOW, slot_seconds=3600, slots=24), pools=(), nodes=())


def gpu_pool() -> dict[str, Any]:
    return {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuPool",
        "metadata": {"name": "h100"},
        "spec": {"accelerator": "h100", "gpusPerNode": 8, "price": {"usdPerGpuHour": 2.0}},
    }


def gpu_job(name: str = "train", generation: int = 1, version: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {
            "name": name,
            "namespace": "ml",
            "uid": f"uid-{name}",
            "generation": generation,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-12-01T00:00:00Z",
        },
        "spec": {"task": {"gpus": 8, "hours": {"h100": 2.0}}},
    }


def batch_job(suspend: bool = True, version: int = 1, **notes: str) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": "8"}
    containers = [{"name": "main", "image": "none", "resources": {"limits": limits}}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "theirs",
            "namespace": "ml",
            "uid": "uid-theirs",
            "generation": 1,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-12-01T00:00:00Z",
            "labels": {"flopwise.dev/queue": ""},
            "annotations": {"flopwise.dev/hours": "2", **notes},
        },
        "spec": {
            "suspend": suspend,
            "template": {"spec": {"restartPolicy": "Never", "containers": containers}},
        },
    }


class World:
    """A sight and a state that is told of all that it sees."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.sight = Sight(Settings(node_lost_seconds=60.0), self.clock)
        self.state = empty()
        self.sight.take("gpupools", "/h100", gpu_pool())
        for name in ("n0", "n1"):
            self.sight.take("nodes", f"/{name}", node(name))

    def phase(self, name: str) -> Phase:
        return self.state.jobs[name].phase

    def tell(self) -> list[Event]:
        self.clock.seconds += 1.0
        events = list(self.sight.events(self.state, NOW))
        for event in events:
            self.state = run(event, self.state)
        return events


def test_a_job_arrives_once_and_is_told_of_again_only_when_its_spec_changes() -> None:
    world = World()
    world.sight.take("gpujobs", "ml/train", gpu_job())
    assert [type(e).__name__ for e in world.tell()] == ["FleetChanged", "JobArrived"]
    assert world.phase("ml/train") is Phase.LAUNCHING
    world.sight.take("gpujobs", "ml/train", gpu_job(version=2))  # a status that we wrote
    assert world.tell() == []
    world.sight.take("gpujobs", "ml/train", gpu_job(generation=2, version=3))
    assert [type(e).__name__ for e in world.tell()] == ["JobChanged"]
    world.sight.take("gpujobs", "ml/train", None)
    assert [type(e).__name__ for e in world.tell()] == ["JobDeleted"]
    assert world.tell() == []


def test_what_is_older_than_what_was_seen_is_not_taken_in() -> None:
    world = World()
    world.sight.take("jobs", "ml/theirs", batch_job(version=7))
    world.tell()
    assert world.sight.workloads["ml/theirs:job"].being is Being.HELD
    world.sight.take("jobs", "ml/theirs", batch_job(suspend=False, version=6))
    world.tell()
    assert world.sight.workloads["ml/theirs:job"].being is Being.HELD


def test_a_pod_of_others_takes_gpus_from_its_node_and_gives_them_back() -> None:
    world = World()
    world.sight.take("pods", "other/p", pod("p", "n0", gpus=3))
    world.tell()
    free = {n.name: sum(not d.unhealthy for d in n.devices) for n in world.state.nodes}
    assert free == {"n0": 5, "n1": 8}
    world.sight.take("pods", "other/p", None)
    world.tell()
    free = {n.name: sum(not d.unhealthy for d in n.devices) for n in world.state.nodes}
    assert free == {"n0": 8, "n1": 8}


def test_a_node_that_is_not_ready_gets_nothing_new_and_after_a_minute_is_lost() -> None:
    world = World()
    world.sight.take("gpujobs", "ml/train", gpu_job())
    world.tell()
    (on,) = world.state.jobs["ml/train"].nodes
    world.sight.take("nodes", f"/{on}", node(on, ready=False))
    world.tell()
    assert world.phase("ml/train") is Phase.LAUNCHING  # it may come back
    assert [n.name for n in world.state.nodes if n.cordoned] == [on]
    world.clock.seconds += 60.0
    world.tell()
    assert world.phase("ml/train") is Phase.STOPPING
    assert on not in {n.name for n in world.state.nodes}


def test_a_workload_that_was_launched_before_is_taken_up_where_it_was_left() -> None:
    before = World()
    before.sight.take("jobs", "ml/theirs", batch_job())
    before.tell()
    from scheduler.controller.actions import record_of

    one = before.state.jobs["ml/theirs:job"]
    notes = {
        ATTEMPT: "1",
        RECORD: record_text(record_of(one, before.state.grid)),
        "flopwise.dev/pinned": "[{}]",
    }
    after = World()
    after.sight.take("jobs", "ml/theirs", batch_job(suspend=False, version=2, **notes))
    (*_, arrived) = after.tell()
    assert isinstance(arrived, JobArrived)
    found = after.state.jobs["ml/theirs:job"]
    assert (found.phase, found.attempt, found.nodes) == (Phase.LAUNCHING, 1, one.nodes)


def test_a_pool_that_has_no_price_is_left_out_and_said_to_be() -> None:
    world = World()
    bad = gpu_pool()
    bad["metadata"] = {"name": "odd"}
    bad["spec"] = {"accelerator": "k80", "gpusPerNode": 8, "site": {"provider": "nowhere"}}
    world.sight.take("gpupools", "/odd", bad)
    world.tell()
    assert [p.name for p in world.state.pools] == ["h100"]
    assert "spec.price" in world.sight.faults["gpupools", "/odd"]


def training() -> dict[str, Any]:
    raw = gpu_job()
    raw["spec"] = {"training": {"model": "llama-3.1-8b", "tokens": 1e9, "gpus": 8}}
    return raw


def test_what_was_measured_corrects_what_a_job_is_promised() -> None:
    # Half as fast as promised, of this very subject: the factor says how far that is believed.
    world = World()
    world.sight.take("gpujobs", "ml/train", training())
    world.tell()
    before = world.state.jobs["ml/train"].job.modes[0].work_per_replica_hour
    subject = Subject(model="llama-3.1-8b", accelerator=H100, precision="bf16", method="Full")
    slow = Measurement(
        subject=subject,
        job="other",
        time=NOW,
        gpus=8,
        unit="tokens",
        promised_per_gpu_second=2.0,
        measured_per_gpu_second=1.0,
    )
    measured = Calibration((slow,))
    world.sight.calibrate(measured)
    world.sight.take("gpujobs", "ml/next", training() | {"metadata": gpu_job("next")["metadata"]})
    world.tell()
    after = world.state.jobs["ml/next"].job.modes[0].work_per_replica_hour
    assert after / before == pytest.approx(measured.factor(subject).value)
    assert after < 0.7 * before


def test_a_node_with_a_bad_gpu_gets_nothing_new_and_what_runs_there_goes_on() -> None:
    world = World()
    world.sight.take("gpujobs", "ml/train", gpu_job())
    world.tell()
    bad = {name: f"its GPU {name}/0: Xid 79" for name in ("n0", "n1")}
    world.sight.distrust(bad)
    world.tell()
    world.sight.take("gpujobs", "ml/next", gpu_job("next"))
    world.tell()
    assert {n.name: n.cordoned for n in world.state.nodes} == bad
    assert world.phase("ml/train") is Phase.LAUNCHING
    assert world.phase("ml/next") is Phase.WAITING
    world.sight.distrust({})
    world.tell()
    assert world.phase("ml/next") is Phase.LAUNCHING


def test_a_pod_s_job_is_known_by_its_label_or_by_its_name() -> None:
    world = World()
    world.sight.take("jobs", "ml/theirs", batch_job())
    world.tell()
    assert world.sight.job_of_pod("ml", "theirs_job", "x") == "ml/theirs:job"
    assert world.sight.job_of_pod("ml", "", "theirs-0-abcde") == "ml/theirs:job"
    assert world.sight.job_of_pod("ml", "", "others-0-abcde") == ""
    assert world.sight.job_of_pod("elsewhere", "", "theirs-0-abcde") == ""


def test_a_gpu_job_may_be_called_as_a_workload_s_job_is_and_they_stay_two() -> None:
    world = World()
    world.sight.take("gpujobs", "ml/theirs.job", gpu_job("theirs.job"))
    world.sight.take("jobs", "ml/theirs", batch_job())
    world.tell()
    assert world.phase("ml/theirs.job") is world.phase("ml/theirs:job") is Phase.LAUNCHING
    nodes = {one.nodes for one in world.state.jobs.values()}
    assert nodes == {("n0",), ("n1",)}
    of_pod = world.sight.job_of_pod
    assert of_pod("ml", "theirs_job", "x") == "ml/theirs:job"
    theirs, ours = world.sight.known["ml/theirs:job"], world.sight.known["ml/theirs.job"]
    assert (theirs.label, ours.label) == ("theirs_job", "theirs.job")
    world.sight.take("jobs", "ml/theirs", None)
    world.tell()
    assert set(world.sight.known) == {"ml/theirs.job"}
    assert world.phase("ml/theirs.job") is Phase.LAUNCHING


def test_who_waits_for_a_name_waits_for_the_gpu_job_of_it_where_there_is_one() -> None:
    world = World()
    last = gpu_job("last")
    last["spec"]["dependsOn"] = ["theirs.job"]
    world.sight.take("gpujobs", "ml/last", last)
    world.sight.take("jobs", "ml/theirs", batch_job())
    world.tell()
    assert world.state.jobs["ml/last"].job.after == ("ml/theirs:job",)
    world.sight.take("gpujobs", "ml/theirs.job", gpu_job("theirs.job"))
    world.tell()
    world.tell()
    assert world.state.jobs["ml/last"].job.after == ("ml/theirs.job",)
    world.sight.take("gpujobs", "ml/theirs.job", None)
    world.tell()
    world.tell()
    assert world.state.jobs["ml/last"].job.after == ("ml/theirs:job",)


def priority_class(name: str, value: int, version: int = 1) -> dict[str, Any]:
    head = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": value}
    return head | {"metadata": {"name": name, "resourceVersion": str(version)}}


def test_a_workload_has_the_priority_of_the_class_that_its_pods_name() -> None:
    world = World()
    raw = batch_job()
    raw["spec"]["template"]["spec"]["priorityClassName"] = "high"
    raw["metadata"]["labels"]["flopwise.dev/queue"] = "nowhere"  # so that it waits
    world.sight.take("jobs", "ml/theirs", raw)
    world.sight.take("priorityclasses", "/high", priority_class("high", 1000))
    world.sight.take("priorityclasses", "/other", priority_class("other", 7))
    world.tell()
    assert world.state.jobs["ml/theirs:job"].job.tier == 1000
    world.sight.take("priorityclasses", "/high", priority_class("high", 2000, version=2))
    world.tell()
    assert world.state.jobs["ml/theirs:job"].job.tier == 2000
    world.sight.take("priorityclasses", "/high", None)  # of a class that is gone nobody knows
    world.tell()
    assert world.state.jobs["ml/theirs:job"].job.tier == 0
    notes: dict[str, Any] = {"flopwise.dev/priority": "5"}
    stated = batch_job(version=3, **notes)
    stated["metadata"]["generation"] = 2
    stated["spec"]["template"]["spec"]["priorityClassName"] = "other"
    world.sight.take("jobs", "ml/theirs", stated)
    world.tell()
    assert world.state.jobs["ml/theirs:job"].job.tier == 5


def gpu_queue(name: str, **spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "flopwise.dev/v1alpha1", "kind": "GpuQueue"}
    return head | {"metadata": {"name": name}, "spec": spec}


def test_queues_in_a_ring_and_one_without_its_parent_are_roots_and_said_to_be() -> None:
    # a is under b and b under a; c is under d, which is not there, and e under c, as it should be.
    world = World()
    for name, parent in (("a", "b"), ("b", "a"), ("c", "d"), ("e", "c")):
        guaranteed = {"h100": 8} if name == "a" else {}
        raw = gpu_queue(name, parent=parent, guaranteed=guaranteed)
        world.sight.take("gpuqueues", f"/{name}", raw)
    job = gpu_job()
    job["spec"]["queue"] = "a"
    world.sight.take("gpujobs", "ml/train", job)
    world.tell()
    parents = {rules.queue.name: rules.queue.parent for rules in world.state.queues}
    assert parents == {"a": "", "b": "", "c": "", "e": "c"}
    assert "found b, which is under it" in world.sight.faults["gpuqueues", "/a"]
    assert "found d, which does not exist" in world.sight.faults["gpuqueues", "/c"]
    assert ("gpuqueues", "/e") not in world.sight.faults
    assert world.phase("ml/train") is Phase.LAUNCHING
    world.sight.take("gpuqueues", "/d", gpu_queue("d"))
    world.tell()
    assert ("gpuqueues", "/c") not in world.sight.faults


def test_a_job_of_a_queue_that_is_not_there_waits_and_is_told_so() -> None:
    world = World()
    raw = batch_job()
    raw["metadata"]["labels"]["flopwise.dev/queue"] = "nowhere"
    world.sight.take("jobs", "ml/theirs", raw)
    world.tell()
    one = world.state.jobs["ml/theirs:job"]
    assert (one.phase, one.why.message) == (Phase.WAITING, "queue nowhere does not exist")
    world.sight.take("gpuqueues", "/nowhere", gpu_queue("nowhere"))
    world.tell()
    assert world.phase("ml/theirs:job") is Phase.LAUNCHING


def test_pools_that_share_nodes_are_told_who_has_them() -> None:
    world = World()
    other = gpu_pool()
    other["metadata"] = {"name": "other"}
    world.sight.take("gpupools", "/other", other)
    world.tell()
    assert {node.pool for node in world.state.nodes} == {"h100"}
    remark = world.sight.remarks["GpuPool other"]
    assert "which GpuPool h100 has" in remark
    (ready,) = pool_status(other, stocks(world.state)["other"], "", remark)["conditions"]
    assert (ready["status"], ready["message"]) == ("False", remark)  # it has no node of its own


def ray_job(stage: str = "Running", suspend: bool = False, **status: Any) -> dict[str, Any]:
    """What our GpuJob ``train`` was launched as; KubeRay without a token has no word of it."""
    owner = {"kind": "GpuJob", "apiVersion": "flopwise.dev/v1alpha1", "name": "train"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": "train",
            "namespace": "ml",
            "uid": "uid-ray",
            "ownerReferences": [{**owner, "uid": "uid-train", "controller": True}],
            "annotations": {ATTEMPT: "1"},
        },
        "spec": {"suspend": suspend},
        "status": {"jobDeploymentStatus": stage, **status},
    }


def ray_pod(name: str = "worker") -> dict[str, Any]:
    return pod(name, "n0", labels={"flopwise.dev/job": "train"}) | {
        "metadata": {"name": name, "namespace": "ml", "labels": {"flopwise.dev/job": "train"}}
    }


@pytest.mark.parametrize(
    ("stage", "lingers"),
    [("Running", True), ("Complete", False), ("Failed", False), ("Suspended", False)],
)
def test_a_ray_job_that_ended_and_of_whose_end_kuberay_never_hears_lingers(
    stage: str, lingers: bool
) -> None:
    world = World()
    world.sight.take("gpujobs", "ml/train", gpu_job())
    world.sight.take("rayjobs", "ml/train", ray_job(stage))
    world.sight.take("pods", "ml/worker", ray_pod())
    world.tell()
    world.sight.hear("ml/train", "SUCCEEDED")  # Ray's own word, that the operator asked for
    world.tell()
    found = world.sight.workloads["ml/train"]
    assert (found.being, found.lingers) == (Being.SUCCEEDED, lingers)
    world.sight.take("pods", "ml/worker", None)  # somebody has taken them away
    world.tell()
    assert not world.sight.workloads["ml/train"].lingers


# -- only looking on -------------------------------------------------------------------------------


def onlooker() -> World:
    world = World()
    world.sight = Sight(Settings(looks_on=True), world.clock)
    world.sight.take("gpupools", "/h100", gpu_pool())
    for name in ("n0", "n1"):
        world.sight.take("nodes", f"/{name}", node(name))
    return world


def their_pod(began: str, phase: str = "Running") -> dict[str, Any]:
    raw = pod("theirs-x", "n1", gpus=8, phase=phase)
    raw["metadata"] |= {
        "namespace": "ml",
        "ownerReferences": [{"kind": "Job", "name": "theirs", "uid": "uid-theirs"}],
    }
    raw["status"]["startTime"] = began
    return raw


def test_a_job_that_somebody_else_runs_is_decided_on_and_what_it_really_holds_is_known() -> None:
    # Its owner never suspended it, and Kueue has it too: where nothing is done, that is theirs.
    world = onlooker()
    world.tell()
    raw = batch_job(suspend=False)
    raw["metadata"]["creationTimestamp"] = "2026-12-01T00:00:01Z"
    raw["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "theirs"
    world.sight.take("jobs", "ml/theirs", raw)
    world.sight.take("pods", "ml/theirs-x", their_pod("2026-12-01T00:00:02Z"))
    world.tell()
    assert world.phase("ml/theirs:job") is Phase.LAUNCHING
    assert all(not d.unhealthy for n in world.state.nodes for d in n.devices)  # not of others
    assert world.sight.onlook is not None
    real = world.sight.onlook.real(["ml/theirs:job"], world.state.jobs)
    assert [(h.job, h.node, h.gpus) for h in real.holdings] == [("ml/theirs:job", "n1", 8.0)]


def test_a_job_that_ran_before_we_looked_on_is_where_it_is() -> None:
    world = onlooker()
    raw = batch_job(suspend=False)
    raw["metadata"]["creationTimestamp"] = "2026-11-30T23:00:00Z"
    world.sight.take("jobs", "ml/theirs", raw)
    world.sight.take("pods", "ml/theirs-x", their_pod("2026-11-30T23:00:05Z"))
    world.tell()
    one = world.state.jobs["ml/theirs:job"]
    assert (one.phase, one.nodes) == (Phase.RUNNING, ("n1",))
    assert one.started == datetime(2026, 11, 30, 23, 0, 5, tzinfo=UTC)


def test_a_job_of_the_second_in_which_we_begin_to_look_on_is_decided_on() -> None:
    # We begin at 0.9 s; its object says that it came at 0 s, which is any time of that second.
    world = onlooker()
    assert world.sight.onlook is not None
    world.sight.onlook.see((), Holders(jobs={}), (), NOW + timedelta(seconds=0.9))
    raw = batch_job(suspend=False)
    raw["metadata"]["creationTimestamp"] = "2026-12-01T00:00:00Z"
    world.sight.take("jobs", "ml/theirs", raw)
    world.sight.take("pods", "ml/theirs-x", their_pod("2026-12-01T00:00:01Z"))
    world.tell()
    assert world.phase("ml/theirs:job") is Phase.LAUNCHING


def test_a_job_that_has_ended_by_itself_stays_in_the_world_that_would_be() -> None:
    world = onlooker()
    world.tell()
    raw = batch_job(suspend=False)
    raw["metadata"]["creationTimestamp"] = "2026-12-01T00:00:01Z"
    world.sight.take("jobs", "ml/theirs", raw)
    world.tell()
    done = batch_job(suspend=False, version=2)
    done["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    world.sight.take("jobs", "ml/theirs", done)
    assert world.tell() == []
    world.sight.take("jobs", "ml/theirs", None)
    assert world.tell() == []
    assert world.sight.onlook is not None
    real = world.sight.onlook.real([], world.state.jobs)
    assert real.over == {"ml/theirs:job": Being.SUCCEEDED}
    assert world.sight.onlook.real([], {}).over == {}


# -- services --------------------------------------------------------------------------------------


def gpu_service() -> dict[str, Any]:
    hourly = {"hourlyRequestsPerSecond": [30.0] * 6 + [150.0] * 18}
    chat = {"model": "llama-3.1-8b", "promptTokens": 500, "outputTokens": 100, **hourly}
    return gpu_job("chat") | {"spec": {"inference": chat}}


def ray_service(placed: str, version: int = 1) -> dict[str, Any]:
    owner = {"apiVersion": "flopwise.dev/v1alpha1", "kind": "GpuJob", "name": "chat"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": "chat",
            "namespace": "ml",
            "uid": "uid-service",
            "resourceVersion": str(version),
            "labels": {JOB: "chat"},
            "annotations": {ATTEMPT: "1", PLACED: placed},
            "ownerReferences": [{**owner, "uid": "uid-chat"}],
        },
        "spec": {"rayClusterConfig": {}},
    }


def ray_cluster(placed: str, ready: int, version: int = 1) -> dict[str, Any]:
    """The one that KubeRay made of it, with its labels."""
    owner = {"apiVersion": "ray.io/v1", "kind": "RayService", "name": "chat", "uid": "uid-service"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": "chat-abc",
            "namespace": "ml",
            "uid": "uid-cluster",
            "resourceVersion": str(version),
            "labels": {JOB: "chat"},
            "annotations": {ATTEMPT: "1", PLACED: placed},
            "ownerReferences": [owner],
        },
        "spec": {},
        "status": {"readyWorkerReplicas": ready},
    }


NIGHT, DAY = '[["n0",1]]', '[["n0",1],["n1",2]]'


def test_a_service_is_where_it_and_its_ray_say_that_it_is_to_be() -> None:
    world = World()
    world.sight.take("gpujobs", "ml/chat", gpu_service())
    world.tell()
    assert world.state.jobs["ml/chat"].scales
    world.sight.take("rayservices", "ml/chat", ray_service(NIGHT))
    world.tell()
    assert world.sight.workloads["ml/chat"].placed == (("n0", 1),)
    world.sight.take("rayclusters", "ml/chat-abc", ray_cluster(NIGHT, 1))
    world.tell()
    assert world.sight.workloads["ml/chat"].ready == 1
    # The Ray was scaled and the service not yet, or a Ray was made anew meanwhile: neither counts.
    world.sight.take("rayclusters", "ml/chat-abc", ray_cluster(DAY, 1, 2))
    world.tell()
    assert [w.placed for w in world.sight.workloads.values()] == [None]
    world.sight.take("rayservices", "ml/chat", ray_service(DAY, 2))
    world.sight.take("rayclusters", "ml/chat-abc", ray_cluster(DAY, 3, 3))
    world.tell()
    found = world.sight.workloads["ml/chat"]
    assert (found.placed, found.ready) == ((("n0", 1), ("n1", 2)), 3)


def test_a_service_in_a_program_of_its_own_does_not_scale() -> None:
    world = World()
    raw = gpu_service()
    raw["spec"]["run"] = {"entrypoint": "python serve.py"}
    world.sight.take("gpujobs", "ml/chat", raw)
    world.tell()
    assert not world.state.jobs["ml/chat"].scales
