"""What we make, against a real API server, KubeRay and the controllers of Kubernetes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from planner.manifests.schema import GpuJob
from planner.problem import Amounts
from scheduler.kube import errors, names, quantities
from scheduler.kube.client import Kube
from scheduler.kube.doctor import Verdict, checks, look
from scheduler.kube.kubeconfig import connect
from scheduler.kube.launch import Capabilities, Gang, Launch, Settings, capabilities
from scheduler.kube.names import RESOURCES, Resource
from scheduler.kube.observe import fleet, machines
from scheduler.kube.phases import Phase, Seen, phase_of
from scheduler.kube.survey import survey
from scheduler.kube.workloads import manifests, resource_of, suspended, token
from tests.cluster.api import eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import AddNodes
from tests.scheduler.kube.objects import job, pool

pytestmark = pytest.mark.cluster

START = datetime(2026, 12, 1, tzinfo=UTC)
RAY = {"entrypoint": "python train.py", "image": "rayproject/ray:2.60.0"}
CHAT = {"model": "llama-3.1-8b", "promptTokens": 500, "outputTokens": 100, "requestsPerSecond": 1}
MAIN = {"name": "main", "image": "none", "command": ["sleep", "1"]}
SAVES = {"intervalSeconds": 60, "saveSeconds": 2, "restartSeconds": 1}


@pytest.fixture
def kube(wide: Cluster) -> Kube:
    return connect(kubeconfig=str(wide.kubeconfig), qps=1000, burst=1000)


@pytest.fixture
def can(kube: Kube) -> Capabilities:
    return capabilities(kube.list(names.CRDS).items)


def launch_of(
    kube: Kube, namespace: str, made: GpuJob, hosts: Sequence[str], **more: Any
) -> Launch:
    """The job on whole nodes, as the plan would have it."""
    found = fleet(machines(kube.list(names.NODES).items, ()), [pool()])
    by_host = {m.hostname: m for m in found.machines["h100"]}
    gang = Gang(
        pool="h100",
        accelerator="h100-sxm5-80gb",
        replicas=tuple((host, 1) for host in hosts),
        amounts=Amounts(gpu_milli=8000, cpu_milli=16_000, memory_bytes=64 * 2**30),
        taints=by_host[hosts[0]].taints,
    )
    metadata = made.metadata.model_copy(update={"namespace": namespace})
    mine = made.model_copy(update={"metadata": metadata})
    return Launch(job=mine, uid="", gangs=(gang,), start=START, **more)


def carried_out(kube: Kube, launch: Launch, can: Capabilities) -> Resource:
    """Everything of a launch applied; with strict validation, so that no field is made up."""
    kube.create(names.SECRETS, token(launch, "s3cret"))
    for each in manifests(launch, Settings(), can):
        kube.apply(RESOURCES[each["apiVersion"], each["kind"]], each)
    return resource_of(launch)


def pods(kube: Kube, launch: Launch) -> list[dict[str, Any]]:
    labels = f"{names.JOB}={launch.job.metadata.name}"
    return list(kube.list(names.PODS, launch.namespace, labels=labels).items)


def is_in(kube: Kube, resource: Resource, launch: Launch, phase: Phase) -> bool:
    return seen(kube, resource, launch).phase is phase


def seen(kube: Kube, resource: Resource, launch: Launch) -> Seen:
    left = [pod for pod in pods(kube, launch) if pod["status"]["phase"] not in quantities.ENDED]
    return phase_of(kube.get(resource, launch.name, launch.namespace), pods=len(left))


@pytest.mark.parametrize(
    ("spec", "kinds"),
    [
        ({"run": RAY}, ["NetworkPolicy", "RayJob"]),
        ({"run": {}}, ["NetworkPolicy", "RayCluster"]),
        ({"inference": CHAT}, ["NetworkPolicy", "RayService"]),
        ({"run": {"podTemplate": {"spec": {"containers": [MAIN]}}}}, ["Service", "Job"]),
    ],
)
def test_every_manifest_passes_strict_validation_and_applied_twice_is_applied_once(
    kube: Kube,
    namespace: str,
    nodes: AddNodes,
    can: Capabilities,
    spec: dict[str, Any],
    kinds: list[str],
) -> None:
    hosts = nodes("h100", 2)
    stated = {"deadline": "2026-12-05T00:00:00Z", "checkpoint": SAVES, **spec}
    launch = launch_of(kube, namespace, job(**stated), hosts)
    made = manifests(launch, Settings(checkpoint_root="s3://x"), can)
    assert [each["kind"] for each in made] == kinds
    for each in made:
        resource = RESOURCES[each["apiVersion"], each["kind"]]
        kube.apply(resource, each)
    workload = partial(kube.get, resource_of(launch), launch.name, namespace)
    if "ray.io" in made[-1]["apiVersion"]:  # KubeRay rewrites what it has seen, in its own spelling
        eventually(lambda: "status" in workload(), "KubeRay has seen it")
    for each in made:
        resource = RESOURCES[each["apiVersion"], each["kind"]]
        first = kube.get(resource, each["metadata"]["name"], namespace)
        again = kube.apply(resource, each)
        assert first["metadata"].get("generation") == again["metadata"].get("generation")
        assert first["metadata"]["uid"] == again["metadata"]["uid"]


def test_a_ray_job_waits_then_runs_on_its_nodes_then_stops_and_goes_on_elsewhere(
    kube: Kube, namespace: str, nodes: AddNodes, can: Capabilities
) -> None:
    hosts = nodes("h100", 4)
    made = job(run=RAY, checkpoint=SAVES)
    launch = launch_of(kube, namespace, made, hosts[:2])
    resource = carried_out(kube, launch, can)
    eventually(lambda: seen(kube, resource, launch).phase is Phase.SUSPENDED, "it waits")
    assert pods(kube, launch) == []

    kube.patch(resource, launch.name, suspended(stop=False), namespace)

    def workers() -> dict[str, str]:
        """Node by worker pod that runs."""
        return {
            pod["metadata"]["name"]: pod["spec"]["nodeName"]
            for pod in pods(kube, launch)
            if pod["metadata"]["labels"].get("ray.io/node-type") == "worker"
            and pod["status"]["phase"] == "Running"
            and "deletionTimestamp" not in pod["metadata"]
        }

    eventually(lambda: sorted(workers().values()) == hosts[:2], "a worker runs on each node")
    assert seen(kube, resource, launch).phase in (Phase.LAUNCHING, Phase.RUNNING)

    kube.patch(resource, launch.name, suspended(stop=True), namespace)
    eventually(lambda: seen(kube, resource, launch).phase is Phase.SUSPENDED, "it has stopped")
    assert workers() == {}

    moved = launch_of(kube, namespace, made, hosts[2:], attempt=2)
    for each in manifests(moved, Settings(), can):
        kube.apply(RESOURCES[each["apiVersion"], each["kind"]], each)
    kube.patch(resource, launch.name, suspended(stop=False), namespace)
    eventually(lambda: sorted(workers().values()) == hosts[2:], "it goes on on the other nodes")


def test_a_gang_of_a_plain_job_runs_to_its_end_on_its_nodes(
    kube: Kube, namespace: str, nodes: AddNodes, can: Capabilities
) -> None:
    hosts = nodes("h100", 3)
    template = {
        "metadata": {"annotations": {"tests.flopwise.dev/succeeds-after": "2s"}},
        "spec": {"containers": [MAIN]},
    }
    launch = launch_of(kube, namespace, job(run={"podTemplate": template}), hosts[1:])
    resource = carried_out(kube, launch, can)
    assert resource is names.JOBS
    eventually(lambda: seen(kube, resource, launch).phase is Phase.SUSPENDED, "it waits")
    kube.patch(resource, launch.name, suspended(stop=False), namespace)
    eventually(
        lambda: sorted(p["spec"].get("nodeName", "") for p in pods(kube, launch)) == hosts[1:],
        "a pod is on each of its nodes",
    )
    eventually(lambda: seen(kube, resource, launch).phase is Phase.SUCCEEDED, "it ends")
    assert seen(kube, resource, launch).ended is not None


def test_a_service_of_ray_s_is_made_and_unmade(
    kube: Kube, namespace: str, nodes: AddNodes, can: Capabilities
) -> None:
    hosts = nodes("h100", 1)
    launch = launch_of(kube, namespace, job(inference=CHAT), hosts)
    resource = carried_out(kube, launch, can)

    def clusters() -> list[dict[str, Any]]:
        return list(kube.list(names.RAY_CLUSTERS, namespace).items)

    eventually(
        lambda: [phase_of(each).phase for each in clusters()] == [Phase.RUNNING], "its Ray is up"
    )
    assert seen(kube, resource, launch).phase is Phase.LAUNCHING  # no dashboard answers here
    kube.delete(resource, launch.name, namespace)
    eventually(lambda: not clusters(), "its Ray is gone with it")


def test_a_ray_cluster_waits_runs_and_waits_again(
    kube: Kube, namespace: str, nodes: AddNodes, can: Capabilities
) -> None:
    launch = launch_of(kube, namespace, job(), nodes("h100", 1))
    resource = carried_out(kube, launch, can)
    for phase in (Phase.SUSPENDED, Phase.RUNNING, Phase.SUSPENDED):
        stop = phase is Phase.SUSPENDED
        kube.patch(resource, launch.name, suspended(stop=stop), namespace)
        eventually(partial(is_in, kube, resource, launch, phase), f"it is {phase}")


def test_what_is_made_goes_with_its_owner(kube: Kube, namespace: str, nodes: AddNodes) -> None:
    hosts = nodes("h100", 1)
    owner = kube.create(
        names.SECRETS,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "owner", "namespace": namespace},
        },
    )
    launch = launch_of(kube, namespace, job(run=RAY), hosts)
    for each in manifests(launch):
        mine = copy.deepcopy(each)
        mine["metadata"]["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Secret", "name": "owner", "uid": owner["metadata"]["uid"]}
        ]
        kube.apply(RESOURCES[each["apiVersion"], each["kind"]], mine)
    kube.delete(names.SECRETS, "owner", namespace, uid=owner["metadata"]["uid"])
    eventually(
        lambda: (
            not kube.list(names.RAY_JOBS, namespace).items
            and not kube.list(names.NETWORK_POLICIES, namespace).items
        ),
        "both are gone",
    )


# -- the client ------------------------------------------------------------------------------------


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


CONFIG_MAPS = Resource(plural="configmaps", kind="ConfigMap")


def test_the_client_reads_and_writes_a_real_api_server(kube: Kube, namespace: str) -> None:
    made = kube.create(CONFIG_MAPS, config_map(namespace, "a", x="1"))
    assert "managedFields" not in made["metadata"]
    with pytest.raises(errors.AlreadyExists):
        kube.create(CONFIG_MAPS, config_map(namespace, "a"))
    changed = kube.patch(CONFIG_MAPS, "a", {"data": {"x": "2"}}, namespace)
    with pytest.raises(errors.Conflict):
        kube.replace(CONFIG_MAPS, made)
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {}}
    with pytest.raises(errors.Conflict):
        kube.patch(CONFIG_MAPS, "a", stale, namespace)
    assert kube.get(CONFIG_MAPS, "a", namespace)["data"] == {"x": "2"}
    with pytest.raises(errors.Invalid, match=r"\.dataa: field not declared"):
        kube.apply(CONFIG_MAPS, config_map(namespace, "a") | {"dataa": {}})
    with pytest.raises(errors.Conflict):
        kube.delete(CONFIG_MAPS, "a", namespace, uid="00000000-0000-0000-0000-000000000000")
    kube.delete(CONFIG_MAPS, "a", namespace, uid=changed["metadata"]["uid"])
    with pytest.raises(errors.NotFound):
        kube.get(CONFIG_MAPS, "a", namespace)


def test_a_dry_run_is_checked_and_not_kept(kube: Kube, namespace: str) -> None:
    kube.create(CONFIG_MAPS, config_map(namespace, "dry"), dry_run=True)
    with pytest.raises(errors.NotFound):
        kube.get(CONFIG_MAPS, "dry", namespace)


def test_a_watch_goes_on_from_a_list(kube: Kube, namespace: str) -> None:
    for number in range(3):
        kube.create(CONFIG_MAPS, config_map(namespace, f"c{number}"))
    listed = kube.list(CONFIG_MAPS, namespace)
    assert {"c0", "c1", "c2"} <= {each["metadata"]["name"] for each in listed.items}
    kube.create(CONFIG_MAPS, config_map(namespace, "later"))
    kube.delete(CONFIG_MAPS, "c0", namespace)

    def first_two() -> Iterator[tuple[str, str]]:
        with kube.watch(CONFIG_MAPS, listed.resource_version, namespace) as changes:
            for number, change in enumerate(changes, start=1):
                yield change.type, change.object["metadata"]["name"]
                if number == 2:
                    return

    assert list(first_two()) == [("ADDED", "later"), ("DELETED", "c0")]


def test_pages_show_one_version_of_a_long_list(
    kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.kube.client.PAGE_OBJECTS", 3)
    for number in range(8):
        kube.create(CONFIG_MAPS, config_map(namespace, f"p{number}"))
    listed = kube.list(CONFIG_MAPS, namespace)
    assert {f"p{number}" for number in range(8)} <= {e["metadata"]["name"] for e in listed.items}


def test_a_service_account_is_refused_what_it_may_not(wide: Cluster, namespace: str) -> None:
    mine = connect(kubeconfig=str(wide.kubeconfig_of("default", namespace)))
    assert mine.namespace == namespace
    with pytest.raises(errors.Refused, match="cannot list resource"):
        mine.list(names.PODS)
    assert not mine.allowed("list", names.PODS)
    assert mine.allowed("create", names.ACCESS_REVIEWS)


# -- the cluster as it is --------------------------------------------------------------------------


def test_a_cluster_is_drafted_as_pools_that_select_its_nodes(kube: Kube, nodes: AddNodes) -> None:
    big = nodes("h100", 3)
    small = nodes("l4", 2, gpus=1)
    mine = {*big, *small}
    found = [m for m in machines(kube.list(names.NODES).items, ()) if m.name in mine]
    drafted = survey(found)
    made = fleet(found, drafted.pools)
    assert {name: [m.name for m in each] for name, each in made.machines.items()} == {
        "h100-sxm5-80gb": big,
        "l4": small,
    }
    assert made.faults == ()


def test_the_doctor_finds_what_is_there_and_what_is_not(kube: Kube, nodes: AddNodes) -> None:
    nodes("h100", 1)
    found = {check.name: check for check in checks(look(kube))}
    assert found["API server"].verdict is Verdict.OK
    assert found["clock"].verdict is Verdict.OK
    assert found["permissions"].verdict is Verdict.OK
    assert found["device plugin"].verdict is Verdict.OK
    assert "h100-sxm5-80gb" in found["GPU labels"].found
    assert found["KubeRay"].verdict is Verdict.WARN  # it runs beside the cluster here
    assert found["Prometheus"].verdict is Verdict.WARN


def test_the_doctor_says_what_a_plain_user_may_not_see(wide: Cluster, namespace: str) -> None:
    mine = connect(kubeconfig=str(wide.kubeconfig_of("default", namespace)))
    found = {check.name: check for check in checks(look(mine))}
    assert found["permissions"].verdict is Verdict.WARN
    assert found["GPUs"].verdict is Verdict.SKIP
    assert "cannot list resource" in found["GPUs"].found
