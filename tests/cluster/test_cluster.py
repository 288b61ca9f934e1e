"""The wide cluster is what it says: a real API server, nodes that run pods, Ray clusters."""

from __future__ import annotations

import pytest

from tests.cluster.api import Object, Refused, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import AddNodes

pytestmark = pytest.mark.cluster

RAY_CLUSTERS = "/apis/ray.io/v1/namespaces/{}/rayclusters"


def pod(name: str, gpus: int, annotations: dict[str, str] | None = None) -> Object:
    asked = {"limits": {"nvidia.com/gpu": str(gpus)}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations or {}},
        "spec": {"containers": [{"name": "main", "image": "none", "resources": asked}]},
    }


def phase(cluster: Cluster, namespace: str, name: str) -> str:
    found: str = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")["status"]["phase"]
    return found


def test_all_programs_run_and_the_api_server_says_its_version(wide: Cluster) -> None:
    wide.check()
    assert sorted(wide.processes) == [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kwok",
        "ray-operator",
    ]
    assert wide.api.get("/version")["major"] == "1"
    assert "kube-system" in wide.kubectl("get", "namespaces", "-o", "name")


def test_nodes_bear_the_labels_of_gpu_feature_discovery(wide: Cluster, nodes: AddNodes) -> None:
    # Cliques of four: nodes 0 to 3 in one, node 4 in the next. 79.6 GiB x 1024 = 81,510 MiB.
    names = nodes("h100", 5)
    assert all(name.startswith("h100-sxm5-80gb-") for name in names)
    assert len({*names, *nodes("h100", 1)}) == 6  # no name comes twice
    items = wide.api.get("/api/v1/nodes", labelSelector="nvidia.com/gpu.count=8")["items"]
    labels = {item["metadata"]["name"]: item["metadata"]["labels"] for item in items}
    assert labels[names[0]]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert 80_000 < int(labels[names[0]]["nvidia.com/gpu.memory"]) < 82_000
    cliques = [labels[name]["nvidia.com/gpu.clique"] for name in names]
    assert len(set(cliques[:4])) == 1
    assert cliques[4] != cliques[3]


def test_a_pod_runs_on_a_node_with_room_and_ends_when_its_annotation_says(
    wide: Cluster, namespace: str, nodes: AddNodes
) -> None:
    # Of two pods of five GPUs one fits on a node of eight; the second waits for the first's end.
    nodes("h100", 1)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    wide.api.post(pods, pod("first", 5, {"tests.flopwise.dev/succeeds-after": "1s"}))
    eventually(lambda: phase(wide, namespace, "first") == "Running", "the first pod runs")
    wide.api.post(pods, pod("second", 5))
    eventually(lambda: phase(wide, namespace, "first") == "Succeeded", "the first pod ends")
    eventually(lambda: phase(wide, namespace, "second") == "Running", "the second takes its place")


def test_a_pod_fails_when_its_annotation_says(
    wide: Cluster, namespace: str, nodes: AddNodes
) -> None:
    nodes("l4", 1)
    annotations = {"tests.flopwise.dev/fails-after": "100ms"}
    wide.api.post(f"/api/v1/namespaces/{namespace}/pods", pod("bad", 1, annotations))
    eventually(lambda: phase(wide, namespace, "bad") == "Failed", "the pod fails")


def test_a_lost_node_is_tainted_and_its_pods_go(
    wide: Cluster, namespace: str, nodes: AddNodes
) -> None:
    # The pod says that it bears a lost node for no second; the default would be five minutes.
    names = nodes("l4", 2)
    made = pod("one", 1)
    unreachable = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    made["spec"]["tolerations"] = [
        {**unreachable, "operator": "Exists", "tolerationSeconds": 0},
    ]
    made["spec"]["nodeName"] = names[0]
    pods = f"/api/v1/namespaces/{namespace}/pods"
    wide.api.post(pods, made)
    eventually(lambda: phase(wide, namespace, "one") == "Running", "the pod runs")
    wide.lose_node(names[0])

    def is_going() -> bool:
        found = wide.api.get(pods)["items"]
        return all("deletionTimestamp" in one["metadata"] for one in found)

    eventually(is_going, "the pod is evicted")
    taints = {taint["key"] for taint in wide.api.get(f"/api/v1/nodes/{names[0]}")["spec"]["taints"]}
    assert "node.kubernetes.io/unreachable" in taints


def test_a_job_completes_through_the_job_controller(
    wide: Cluster, namespace: str, nodes: AddNodes
) -> None:
    nodes("l4", 1)
    template = pod("unused", 1, {"tests.flopwise.dev/succeeds-after": "100ms"})
    spec = {**template["spec"], "restartPolicy": "Never"}
    annotated = {"metadata": {"annotations": template["metadata"]["annotations"]}, "spec": spec}
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    body = {"metadata": {"name": "two"}, "spec": {"completions": 2, "template": annotated}}
    wide.api.post(jobs, {"apiVersion": "batch/v1", "kind": "Job", **body})
    eventually(
        lambda: wide.api.get(f"{jobs}/two")["status"].get("succeeded") == 2, "both pods succeed"
    )


def test_a_service_account_may_do_nothing_until_a_role_says_so(
    wide: Cluster, namespace: str
) -> None:
    as_default = wide.api_as("default", namespace)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    with pytest.raises(Refused) as refused:
        as_default.get(pods)
    assert (refused.value.code, refused.value.reason) == (403, "Forbidden")
    assert f"system:serviceaccount:{namespace}:default" in refused.value.message
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
    wide.api.post(
        rbac,
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "may-look"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "view",
            },
        },
    )
    assert eventually(lambda: as_default.get(pods), "the role holds")["items"] == []


def test_the_audit_log_tells_what_a_user_asked_and_what_came_of_it(
    wide: Cluster, namespace: str
) -> None:
    since = wide.audit_offset()
    as_default = wide.api_as("default", namespace)
    with pytest.raises(Refused):
        as_default.get(f"/api/v1/namespaces/{namespace}/secrets")
    user = f"system:serviceaccount:{namespace}:default"
    entries = eventually(lambda: list(wide.audit(user, since)), "the request is in the audit log")
    told = [(e["verb"], e["objectRef"]["resource"], e["responseStatus"]["code"]) for e in entries]
    assert told == [("list", "secrets", 403)]


def test_kubectl_is_the_service_account_of_its_kubeconfig(wide: Cluster, namespace: str) -> None:
    config = wide.kubeconfig_of("default", namespace)
    said = wide.kubectl(f"--kubeconfig={config}", "auth", "whoami", "-o", "yaml")
    assert f"system:serviceaccount:{namespace}:default" in said


def test_kuberay_makes_pods_of_a_ray_cluster(
    wide: Cluster, namespace: str, nodes: AddNodes
) -> None:
    # One head without GPUs and two workers of eight on two nodes: 16 GPUs, as its status says.
    nodes("h100", 2)
    path = RAY_CLUSTERS.format(namespace)
    wide.api.post(path, ray_cluster("gang", workers=2, gpus=8))

    def state() -> Object:
        status: Object = wide.api.get(f"{path}/gang").get("status", {})
        return status

    eventually(lambda: state().get("state") == "ready", "the Ray cluster is ready")
    assert (state()["readyWorkerReplicas"], state()["desiredGPU"]) == (2, "16")


def ray_cluster(name: str, workers: int, gpus: int) -> Object:
    def template(gpus: int) -> Object:
        asked = {"limits": {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": str(gpus)}}
        container = {"name": "ray", "image": "none", "resources": asked}
        return {"spec": {"containers": [container]}}

    group = {
        "groupName": "workers",
        "replicas": workers,
        "minReplicas": workers,
        "maxReplicas": workers,
        "rayStartParams": {},
        "template": template(gpus),
    }
    head = {"rayStartParams": {}, "template": template(0)}
    spec = {"rayVersion": "2.60.0", "headGroupSpec": head, "workerGroupSpecs": [group]}
    metadata = {"name": name}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}


def test_what_was_stored_outlives_the_api_server_and_etcd(wide: Cluster, namespace: str) -> None:
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}}
    wide.api.post(maps, {**made, "data": {"answer": "42"}})
    wide.processes["kube-apiserver"].kill()
    with pytest.raises(OSError, match=r".*"):
        wide.api.get(maps)
    wide.processes["kube-apiserver"].start()
    wide.wait_until_ready()
    wide.restart_etcd()
    assert wide.api.get(f"{maps}/kept")["data"] == {"answer": "42"}
