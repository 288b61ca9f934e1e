"""The operator on a real control plane: jobs run where it says, whatever happens to it."""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scheduler.controller import loop
from scheduler.controller.log import Log
from scheduler.kube.kubeconfig import connect
from scheduler.kube.launch import Capabilities
from tests.cluster.api import Object, Refused, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import AddNodes, Helm
from tests.cluster.process import Process
from tests.cluster.rights import refused, used
from tests.cluster.test_chart import rendered
from tests.cluster.unruly import Fate, Unruly

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
FLOPWISE = "/apis/flopwise.dev/v1alpha1"


@dataclass
class Operators:
    """Operators of one namespace's jobs, as processes."""

    cluster: Cluster
    namespace: str
    folder: Path
    started: list[Process] = field(default_factory=list)

    def start(self, *more: str) -> Process:
        """Another one; it may take a moment until it acts."""
        name = f"operator-{len(self.started)}"
        command = [
            *(sys.executable, "-m", "flopwise", "operator", "run"),
            f"--kubeconfig={self.cluster.kubeconfig}",
            f"--namespaces={self.namespace}",
            f"--lease-namespace={self.namespace}",
            *("--kube-api-qps=500", "--kube-api-burst=1000"),
            *("--metrics-port=0", "--health-port=0"),
            *("--lease-seconds=3", "--renew-seconds=2", "--retry-seconds=0.3"),
            *("--notice-seconds=1", "--node-lost-seconds=2", "--plan-every-seconds=0"),
            *more,
        ]
        made = Process(name, command, self.folder / f"{name}.log", {"PYTHONPATH": str(ROOT)})
        self.started.append(made)
        made.start()
        return made

    def port(self, operator: Process, what: str = "healthPort") -> int:
        """Where it answers; it has started."""

        def stated() -> int:
            operator.check()
            lines = [json.loads(each) for each in operator.tail(1_000_000).splitlines()]
            return next((line[what] for line in lines if line["message"] == "started"), 0)

        return int(eventually(stated, "the operator has started", within_seconds=60))

    def ask(self, operator: Process, path: str, what: str = "healthPort") -> tuple[int, str]:
        """What it answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(operator, what), timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def wait_until_ready(self, operator: Process) -> None:
        """Returns when it acts, or stands by."""
        eventually(
            lambda: self.ask(operator, "/readyz")[0] == http.client.OK,
            "the operator is ready",
            within_seconds=60,
        )


@pytest.fixture
def operators(kinds: Cluster, namespace: str, tmp_path: Path) -> Iterator[Operators]:
    """Starts operators; they end with the test, and what they wrote is shown where it failed."""
    made = Operators(kinds, namespace, tmp_path)
    yield made
    for each in made.started:
        each.kill()
        print(each.tail(60))  # noqa: T201  # pytest shows it where the test failed


@pytest.fixture
def fleet(kinds: Cluster, namespace: str) -> Iterator[str]:
    """A pool of the nodes with a label that is this test's own, and a queue: their name."""
    put(kinds, "GpuPool", namespace, "", pool_spec(namespace))
    put(kinds, "GpuQueue", namespace, "", {})
    yield namespace
    kinds.remove(f"{FLOPWISE}/gpupools/{namespace}")
    kinds.remove(f"{FLOPWISE}/gpuqueues/{namespace}")


def pool_spec(name: str) -> Object:
    return {
        "accelerator": "h100",
        "gpusPerNode": 8,
        "nodeSelector": {"tests.flopwise.dev/pool": name},
        "price": {"purchase": "on_demand", "usdPerGpuHour": 2.0},
    }


def put(cluster: Cluster, kind: str, name: str, namespace: str, spec: Object) -> Object:
    """An object of ours, made or changed."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    inside = f"/namespaces/{namespace}" if namespace else ""
    raw = {"apiVersion": "flopwise.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
    return cluster.api.apply(f"{FLOPWISE}{inside}/{kind.lower()}s/{name}", raw)


def of_pool(name: str) -> dict[str, object]:
    return {"labels": {"tests.flopwise.dev/pool": name}, "prefix": name}


def task(queue: str, replicas: int = 1, gpus: int = 8, hours: float = 1.0, **more: Any) -> Object:
    """A task whose pods run until they are deleted, or as `lasts` says."""
    return {
        "queue": queue,
        "task": {"replicas": replicas, "gpus": gpus, "hours": {"h100": hours}},
        **more,
    }


RAY = {"entrypoint": "python train.py", "image": "rayproject/ray:2.60.0"}


def plain(lasts: str = "") -> Object:
    """A pod template for a Job without Ray."""
    notes = {"tests.flopwise.dev/succeeds-after": lasts} if lasts else {}
    containers = [{"name": "main", "image": "none"}]
    return {"podTemplate": {"metadata": {"annotations": notes}, "spec": {"containers": containers}}}


def suspended_job(name: str, queue: str, gpus: int = 8, lasts: str = "", pods: int = 1) -> Object:
    """A Job of somebody who has never heard of GpuJobs."""
    notes = {"tests.flopwise.dev/succeeds-after": lasts} if lasts else {}
    limits = {"nvidia.com/gpu": str(gpus)}
    container = {"name": "main", "image": "none", "resources": {"limits": limits}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {"flopwise.dev/queue": queue},
            "annotations": {"flopwise.dev/hours": "1"},
        },
        "spec": {
            "suspend": True,
            "parallelism": pods,
            "completions": pods,
            "backoffLimit": 0,
            "template": {
                "metadata": {"annotations": notes},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }


def add_job(cluster: Cluster, namespace: str, raw: Object) -> Object:
    return cluster.api.post(f"/apis/batch/v1/namespaces/{namespace}/jobs", raw)


def condition(cluster: Cluster, namespace: str, name: str, kind: str) -> Object:
    """A condition of a GpuJob; without fields where it is not stated."""
    raw = cluster.api.get(f"{FLOPWISE}/namespaces/{namespace}/gpujobs/{name}")
    found = raw.get("status", {}).get("conditions", ())
    return next((each for each in found if each["type"] == kind), {})


def holds(cluster: Cluster, namespace: str, name: str, kind: str) -> bool:
    return bool(condition(cluster, namespace, name, kind).get("status") == "True")


def nodes_of(cluster: Cluster, namespace: str, job: str) -> list[str]:
    """Where the pods with GPUs of a job run."""
    found = cluster.api.get(
        f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"flopwise.dev/job={job}"
    )["items"]
    return sorted(
        pod["spec"]["nodeName"]
        for pod in found
        if pod["status"].get("phase") == "Running"
        and "deletionTimestamp" not in pod["metadata"]
        and any(
            "nvidia.com/gpu" in each.get("resources", {}).get("limits", {})
            for each in pod["spec"]["containers"]
        )
    )


def job_of(cluster: Cluster, namespace: str, name: str) -> Object:
    try:
        return cluster.api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")
    except Refused:
        return {}


# -- what it is for --------------------------------------------------------------------------------


def test_a_gpu_job_becomes_a_ray_job_on_nodes_of_its_pool(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 3, **of_pool(fleet))
    operators.start()
    put(kinds, "GpuJob", "train", fleet, task(fleet, replicas=2, run=RAY))
    eventually(lambda: len(nodes_of(kinds, fleet, "train")) == 2, "a worker runs on each node", 60)
    raw = kinds.api.get(f"{FLOPWISE}/namespaces/{fleet}/gpujobs/train")
    assert raw["status"]["plan"]["nodes"] == nodes_of(kinds, fleet, "train")
    assert set(raw["status"]["plan"]["nodes"]) <= set(hosts)
    assert raw["status"]["plan"]["costUsd"] == 2 * 8 * 2.0  # two nodes of 8 GPUs, an hour, $2
    assert raw["status"]["launched"] == {"kind": "RayJob", "name": "train", "attempt": 1}
    assert holds(kinds, fleet, "train", "Launched")


def test_suspended_jobs_are_pinned_released_and_followed_to_their_end_and_kueue_s_are_left_alone(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 2, **of_pool(fleet))
    kueue = suspended_job("kueue", fleet)
    kueue["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "theirs"
    before = add_job(kinds, fleet, kueue)
    for number in range(6):
        add_job(kinds, fleet, suspended_job(f"j{number}", fleet, gpus=8, lasts="1s"))
    operators.start()

    def ended() -> bool:
        jobs = [job_of(kinds, fleet, f"j{number}") for number in range(6)]
        return all(job["status"].get("succeeded") == 1 for job in jobs)

    eventually(ended, "six jobs have run one after the other on two nodes", 60)
    pods = kinds.api.get(f"/api/v1/namespaces/{fleet}/pods")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == set(hosts)
    assert len(pods) == 6
    after = job_of(kinds, fleet, "kueue")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["spec"]["suspend"] is True


def test_a_job_that_cannot_fit_is_told_what_binds_it(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    nodes("h100", 2, **of_pool(fleet))  # 16 GPUs
    operators.wait_until_ready(operators.start())
    put(kinds, "GpuJob", "huge", fleet, task(fleet, replicas=10, run=RAY))  # 80
    planned = eventually(
        lambda: condition(kinds, fleet, "huge", "Planned"), "it is told", within_seconds=20
    )
    assert (planned["status"], planned["observedGeneration"]) == ("False", 1)
    assert planned["reason"] == "NoOption"
    assert "its gang fits none of the pools" in planned["message"]
    assert fleet in planned["message"]  # the pool that it does not fit
    events = kinds.api.get(f"/apis/events.k8s.io/v1/namespaces/{fleet}/events")["items"]
    assert [e["reason"] for e in events if e["regarding"]["name"] == "huge"] == [planned["reason"]]


def test_a_dearer_job_preempts_a_cheaper_one_which_goes_on_afterwards(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    (host,) = nodes("h100", 1, **of_pool(fleet))
    operators.start()
    saves = {"intervalSeconds": 60, "saveSeconds": 1, "restartSeconds": 1}
    put(kinds, "GpuJob", "low", fleet, task(fleet, run=plain(), checkpoint=saves))
    eventually(lambda: holds(kinds, fleet, "low", "Running"), "the first one runs", 60)
    put(kinds, "GpuJob", "high", fleet, task(fleet, run=plain("2s"), priority=10))
    eventually(lambda: holds(kinds, fleet, "low", "Preempted"), "it gives way", 30)
    eventually(lambda: nodes_of(kinds, fleet, "high") == [host], "the dearer one runs", 30)
    eventually(lambda: holds(kinds, fleet, "high", "Succeeded"), "and ends", 30)
    eventually(lambda: nodes_of(kinds, fleet, "low") == [host], "the first one goes on", 30)

    def again() -> bool:
        raw = kinds.api.get(f"{FLOPWISE}/namespaces/{fleet}/gpujobs/low")
        return bool(raw["status"]["launched"]["attempt"] == 2)

    eventually(again, "its status says that it was launched again", 30)


def test_a_gang_goes_on_elsewhere_when_one_of_its_nodes_is_lost(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    hosts = nodes("h100", 3, **of_pool(fleet))
    operators.start()
    put(kinds, "GpuJob", "gang", fleet, task(fleet, replicas=2, run=plain()))
    eventually(lambda: len(nodes_of(kinds, fleet, "gang")) == 2, "it runs on two nodes", 60)
    first = nodes_of(kinds, fleet, "gang")
    kinds.lose_node(first[0])
    left = sorted(set(hosts) - {first[0]})

    def moved() -> bool:
        raw = kinds.api.get(f"{FLOPWISE}/namespaces/{fleet}/gpujobs/gang")
        return raw.get("status", {}).get("launched", {}).get("attempt") == 2 and (
            nodes_of(kinds, fleet, "gang") == left
        )

    eventually(moved, "it runs on the two that are left", 60)


# -- faults ----------------------------------------------------------------------------------------


def test_of_two_operators_one_acts_and_the_other_takes_over_when_it_is_killed(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    nodes("h100", 2, **of_pool(fleet))
    since = kinds.audit_offset()
    first = operators.start()
    operators.wait_until_ready(first)
    second = operators.start()
    operators.wait_until_ready(second)
    add_job(kinds, fleet, suspended_job("one", fleet))
    eventually(lambda: nodes_of(kinds, fleet, "one_job"), "the first one has it run", 30)
    assert acts(first)
    assert not acts(second)
    first.kill()
    add_job(kinds, fleet, suspended_job("two", fleet))
    eventually(lambda: nodes_of(kinds, fleet, "two_job"), "the second one takes over", 30)
    patches = [
        (entry["objectRef"]["name"], entry["sourceIPs"], entry["userAgent"])
        for entry in kinds.audit(since=since)
        if entry["verb"] == "patch"
        and entry.get("objectRef", {}).get("resource") == "jobs"
        and entry["objectRef"].get("namespace") == fleet
        and entry["userAgent"] == "flopwise"
    ]
    assert [name for name, _, _ in patches] == ["one", "two"]


@pytest.mark.timeout(3600)  # a hundred kills: each waits until the lease of the one before is over
def test_killed_at_any_moment_it_launches_every_job_once_and_loses_none(
    kinds: Cluster,
    operators: Operators,
    fleet: str,
    nodes: AddNodes,
    request: pytest.FixtureRequest,
) -> None:
    kills = 100 if request.config.getoption("--soak") else 10
    nodes("h100", 4, **of_pool(fleet))  # 32 at once, of one GPU each
    since = kinds.audit_offset()
    rng = random.Random(20261130)
    for number in range(kills):  # ten more jobs arrive each time, a fifth of them GpuJobs
        operator = operators.start()
        for each in range(8):
            add_job(kinds, fleet, suspended_job(f"j{number}-{each}", fleet, 1, "1s"))
        for each in range(2):
            name = f"g{number}-{each}"
            put(kinds, "GpuJob", name, fleet, task(fleet, gpus=1, run=plain("1s")))
        eventually(partial(acts, operator), "it acts", 60)
        time.sleep(rng.uniform(0.0, 0.7))
        operator.kill()
    last = operators.start()

    def all_have_run() -> bool:
        nonlocal last
        if not last.alive:  # a busy machine took its lease of 3 s: started again, as a pod would be
            last = operators.start()
        return done(kinds, fleet) == 10 * kills

    eventually(all_have_run, "all jobs have run", 120 + 2 * kills)
    assert launched_once(kinds, fleet, since) == 10 * kills
    theirs, ours = (
        {f"{letter}{number}-{each}" for number in range(kills) for each in range(count)}
        for letter, count in (("j", 8), ("g", 2))
    )
    # By the API server's own record: who was released, and of whom pods were sent to a node.
    entries = [e for e in kinds.audit(since=since) if e["objectRef"].get("namespace") == fleet]
    released, cut_off = (
        Counter(
            entry["objectRef"]["name"]
            for entry in entries
            if (entry["verb"], entry["objectRef"]["resource"]) == ("patch", "jobs")
            and entry["userAgent"] == "flopwise"
            and entry["responseStatus"]["code"] == code
        )
        for code in (http.client.OK, http.client.GATEWAY_TIMEOUT)
    )
    assert set(released.values()) == {1}
    # A request whose client was killed is noted as timed out, whether or not it was carried out.
    assert released.keys() | cut_off.keys() == theirs | ours
    bound = Counter(
        entry["objectRef"]["name"].rpartition("-")[0]
        for entry in entries
        if (entry["verb"], entry["objectRef"].get("subresource")) == ("create", "binding")
        and entry["responseStatus"]["code"] == http.client.CREATED
    )
    # The Job of a GpuJob counts its pods: their names have their number.
    assert bound == dict.fromkeys(theirs | {f"{name}-0" for name in ours}, 1)


def acts(operator: Process) -> bool:
    """Whether it has said that it is the one."""
    return "acting" in operator.tail(1000)


def all_jobs(cluster: Cluster, namespace: str) -> list[Object]:
    found: list[Object] = cluster.api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    return found


def done(cluster: Cluster, namespace: str) -> int:
    return sum(job["status"].get("succeeded", 0) for job in all_jobs(cluster, namespace))


def test_it_goes_on_when_the_api_server_and_etcd_come_back(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    nodes("h100", 2, **of_pool(fleet))
    operator = operators.start()
    for number in range(4):
        add_job(kinds, fleet, suspended_job(f"before{number}", fleet, 8, "1s"))
    eventually(lambda: done(kinds, fleet) >= 1, "some have run", 60)
    kinds.stop_api_server(10)
    kinds.restart_etcd()
    for number in range(4):
        add_job(kinds, fleet, suspended_job(f"after{number}", fleet, 8, "1s"))
    # It could not renew its lease, which is one of 3 s here: it ends, and is started again.
    eventually(lambda: not operator.alive, "it ends")
    operators.start()
    eventually(lambda: done(kinds, fleet) == 8, "all have run", 90)
    found = all_jobs(kinds, fleet)
    assert {job["metadata"]["annotations"]["flopwise.dev/attempt"] for job in found} == {"1"}


# -- rights ----------------------------------------------------------------------------------------


def granted_to(cluster: Cluster, run_helm: Helm, namespace: str, **values: Any) -> str:
    """The chart's roles for an account in that namespace, and for its jobs only; its name."""
    stated = {"watchNamespaces": [namespace], **values}
    made = [*rendered(run_helm, stated, f"--namespace={namespace}")]
    account = ""
    for raw in made:
        if not (raw["kind"].endswith(("Role", "RoleBinding")) or raw["kind"] == "ServiceAccount"):
            continue
        metadata = raw["metadata"]
        group = "/api/v1" if raw["kind"] == "ServiceAccount" else f"/apis/{raw['apiVersion']}"
        inside = "" if raw["kind"].startswith("Cluster") else f"/namespaces/{namespace}"
        if inside:
            metadata["namespace"] = namespace
        if raw["kind"] == "ServiceAccount":
            account = metadata["name"]
        path = f"{group}{inside}/{raw['kind'].lower()}s/{metadata['name']}"
        cluster.api.apply(path, raw)
    return account


def test_with_the_chart_s_rights_nothing_that_it_asks_for_is_refused(
    kinds: Cluster,
    operators: Operators,
    fleet: str,
    nodes: AddNodes,
    helm: Helm,
) -> None:
    (host,) = nodes("h100", 1, **of_pool(fleet))
    account = granted_to(kinds, helm, fleet)
    since = kinds.audit_offset()
    operator = operators.start(f"--kubeconfig={kinds.kubeconfig_of(account, fleet)}")
    saves = {"intervalSeconds": 60, "saveSeconds": 1, "restartSeconds": 1}
    put(kinds, "GpuJob", "low", fleet, task(fleet, run=RAY, checkpoint=saves))
    eventually(lambda: nodes_of(kinds, fleet, "low") == [host], "a Ray job runs", 60)
    put(kinds, "GpuJob", "high", fleet, task(fleet, run=plain("1s"), priority=10))
    eventually(lambda: holds(kinds, fleet, "high", "Succeeded"), "a dearer one ran", 60)
    eventually(lambda: nodes_of(kinds, fleet, "low") == [host], "the first one goes on", 60)
    kinds.remove(f"{FLOPWISE}/namespaces/{fleet}/gpujobs/low")
    add_job(kinds, fleet, suspended_job("theirs", fleet, lasts="1s"))
    eventually(lambda: job_of(kinds, fleet, "theirs")["status"].get("succeeded"), "theirs ran", 60)
    operator.stop()
    events = list(kinds.audit(f"system:serviceaccount:{fleet}:{account}", since))
    assert refused(events) == set()
    assert {("batch/jobs", "patch"), ("ray.io/rayjobs", "patch"), ("secrets", "create")} <= used(
        events
    )


def test_only_observing_it_writes_nothing_but_the_status_of_what_is_its_own(
    kinds: Cluster,
    operators: Operators,
    fleet: str,
    nodes: AddNodes,
    helm: Helm,
) -> None:
    nodes("h100", 1, **of_pool(fleet))
    account = granted_to(kinds, helm, fleet, observeOnly=True)
    since = kinds.audit_offset()
    add_job(kinds, fleet, suspended_job("theirs", fleet))
    put(kinds, "GpuJob", "ours", fleet, task(fleet, run=RAY))
    kubeconfig = kinds.kubeconfig_of(account, fleet)
    operator = operators.start(f"--kubeconfig={kubeconfig}", "--observe-only")
    planned = eventually(lambda: condition(kinds, fleet, "ours", "Planned"), "it is told", 60)
    assert planned["type"] == "Planned"
    launched = condition(kinds, fleet, "ours", "Launched")
    assert (launched["status"], launched["reason"]) == ("False", "ObserveOnly")
    eventually(
        lambda: "flopwise_would_launch" in operators.ask(operator, "/metrics", "metricsPort")[1],
        "it says what it would do",
    )
    operator.stop()
    assert job_of(kinds, fleet, "theirs")["spec"]["suspend"] is True
    assert kinds.api.get(f"/apis/ray.io/v1/namespaces/{fleet}/rayjobs")["items"] == []
    events = list(kinds.audit(f"system:serviceaccount:{fleet}:{account}", since))
    assert refused(events) == set()
    assert {path for path, verb in used(events) if verb not in ("get", "list", "watch")} <= {
        "flopwise.dev/gpujobs/status",
        "flopwise.dev/gpupools/status",
        "flopwise.dev/gpuqueues/status",
        "coordination.k8s.io/leases",
        "events.k8s.io/events",
    }


def test_only_observing_it_sets_what_the_cluster_does_beside_what_it_would_do(
    kinds: Cluster, operators: Operators, fleet: str, nodes: AddNodes
) -> None:
    # Kubernetes' own scheduler runs theirs on 4 of 8 GPUs at $2 an hour each, as it likes.
    nodes("h100", 1, **of_pool(fleet))
    operator = operators.start("--observe-only", "--lease-seconds=15", "--renew-seconds=10")
    operators.wait_until_ready(operator)
    theirs = suspended_job("theirs", fleet, gpus=4)
    theirs["spec"]["suspend"] = False
    add_job(kinds, fleet, theirs)

    def observed() -> Object:
        status = kinds.api.get(f"{FLOPWISE}/gpuqueues/{fleet}").get("status", {})
        return dict(status.get("observed") or {})

    eventually(lambda: observed().get("runs", {}).get("jobs") == 1, "what runs is told", 60)
    runs = observed()["runs"]
    assert (runs["gpus"], runs["usdPerHour"]) == (4, 8.0)
    (pod,) = kinds.api.get(f"/api/v1/namespaces/{fleet}/pods")["items"]
    at = f"/api/v1/namespaces/{fleet}/pods/{pod['metadata']['name']}/status"
    kinds.api.patch(at, {"status": {"phase": "Succeeded"}})
    eventually(lambda: observed().get("compared") == 1, "it ended in both worlds", 60)
    status = kinds.api.get(f"{FLOPWISE}/gpuqueues/{fleet}")["status"]
    assert [each["type"] for each in status["conditions"]] == ["Ready", "Observed"]
    assert job_of(kinds, fleet, "theirs")["metadata"].get("annotations", {}).keys() == {
        "flopwise.dev/hours"
    }
    said = flopwise("operator", "report", f"--kubeconfig={kinds.kubeconfig}", "-o", "json")
    (row,) = [each for each in json.loads(said) if each["queue"] == fleet]
    assert (row["compared"], row["ended"]) == (1, 1)
    assert row["usd"] > 0.0


def flopwise(*arguments: str) -> str:
    """What a command prints."""
    made = subprocess.run(
        [sys.executable, "-m", "flopwise", *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    return made.stdout


def test_whatever_the_api_server_answers_each_job_is_launched_once(
    kinds: Cluster, fleet: str, nodes: AddNodes, tmp_path: Path
) -> None:
    nodes("h100", 2, **of_pool(fleet))
    since = kinds.audit_offset()
    lines: list[str] = []
    with Unruly(kinds.url, kinds.credentials("admin"), random.Random(7)) as proxy:
        kube = connect(kubeconfig=str(proxy.kubeconfig(tmp_path / "proxy")), qps=500, burst=1000)
        kube._read_seconds = 1.0  # so that silence costs no half minutes
        operator = loop.Operator(
            kube,
            loop.Settings(namespaces=(fleet,), plan_every_seconds=0),
            can=Capabilities(),
            log=Log(lines.append),
        )
        thread = threading.Thread(target=operator.run, daemon=True)
        thread.start()
        try:
            for number in range(24):
                add_job(kinds, fleet, suspended_job(f"j{number}", fleet, 4, "1s"))
            for number in range(12):
                made = task(fleet, gpus=4, run=plain("1s"))
                put(kinds, "GpuJob", f"g{number}", fleet, made)
            eventually(lambda: done(kinds, fleet) == 36, "all jobs have run", 150)
            eventually(
                lambda: all(holds(kinds, fleet, f"g{n}", "Succeeded") for n in range(12)),
                "all owners are told",
                60,
            )
        finally:
            operator.stop()
            thread.join(10)
            print("".join(lines[-60:]))  # noqa: T201  # pytest shows it where the test failed
            print(proxy.fates)  # noqa: T201  # as above
    assert set(proxy.fates) == set(Fate)  # each of them has happened
    assert launched_once(kinds, fleet, since) == 36


def launched_once(cluster: Cluster, namespace: str, since: int) -> int:
    """How many Jobs there are; each was made once, let run once, and had one pod."""
    found = all_jobs(cluster, namespace)
    assert {job["metadata"]["annotations"]["flopwise.dev/attempt"] for job in found} == {"1"}
    created = Counter(
        entry["objectRef"]["name"]
        for entry in cluster.audit(since=since)
        if entry["verb"] == "create"
        and entry.get("objectRef", {}).get("resource") == "jobs"
        and entry["objectRef"].get("namespace") == namespace
        and entry["responseStatus"]["code"] == http.client.CREATED
    )
    assert set(created.values()) == {1}
    pods = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    by_job = Counter(pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] for pod in pods)
    assert by_job == {job["metadata"]["name"]: 1 for job in found}
    return len(found)
