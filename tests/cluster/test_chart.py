"""The chart through real Helm: linted, rendered, and installed into the wide cluster.

Its pods run as far as the cluster can tell: on nodes that only exist in the API server.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.kube import doctor
from scheduler.kube.crds import CHART_CRDS, definitions
from tests.cluster import build
from tests.cluster.api import Api, Object, Refused, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import RELEASE, Helm
from tests.cluster.rights import granted, refused, rights_of, used

pytestmark = pytest.mark.cluster

CHART = CHART_CRDS.parent
FULL_NAME = "test-flopwise"
MONITORING = ("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule")
READS = ("list", "watch")
WRITES = ("create", "patch", "delete")
WORKLOADS = ("ray.io/rayjobs", "ray.io/rayservices", "ray.io/rayclusters", "batch/jobs")


def setting(values: dict[str, Any]) -> list[str]:
    """Arguments that set each value, by its path."""
    return [f"--set-json={path}={json.dumps(value)}" for path, value in values.items()]


def rendered(helm: Helm, values: dict[str, Any] | None = None, *more: str) -> list[Object]:
    done = helm("template", RELEASE, CHART, "--namespace=gpus", *setting(values or {}), *more)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def the(objects: list[Object], kind: str, name: str = "") -> Object:
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"].endswith(name))
    return found


def container(objects: list[Object]) -> dict[str, Any]:
    (found,) = the(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


# -- lint and values ----------------------------------------------------------------------------


def test_helm_finds_nothing_to_complain_about(helm: Helm) -> None:
    done = helm("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


BAD: dict[str, tuple[str, Any]] = {
    "a value that is not known": ("replicas", 3),
    "one that is not known further down": ("image.name", "flopwise"),
    "fewer than no replicas": ("replicaCount", -1),
    "text for a number": ("replicaCount", "two"),
    "text for yes or no": ("observeOnly", "yes"),
    "a digest that is none": ("image.digest", "sha256:abc"),
    "a repository with its digest": ("image.repository", "a@sha256:abc"),
    "a namespace that cannot be": ("watchNamespaces", ["Team_A"]),
    "a port of the system": ("metrics.port", 80),
    "no requests at all": ("kubeApi.qps", 0),
    "a pull policy of another spelling": ("image.pullPolicy", "always"),
    "an argument that is no option": ("extraArgs", ["observe"]),
    "half an interval": ("metrics.serviceMonitor.interval", "often"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_value_is_refused_by_its_name(case: str, helm: Helm) -> None:
    path, value = BAD[case]
    done = helm("template", RELEASE, CHART, *setting({path: value}))
    assert done.returncode != 0
    assert path.rpartition(".")[2] in done.stderr


def test_a_service_account_of_others_needs_a_name(helm: Helm) -> None:
    done = helm("template", RELEASE, CHART, *setting({"serviceAccount.create": False}))
    assert "serviceAccount.name is needed where serviceAccount.create is false" in done.stderr


# -- what is rendered ---------------------------------------------------------------------------


def test_everything_bears_the_standard_labels_and_lies_in_the_release(helm: Helm) -> None:
    objects = rendered(helm, {"commonLabels": {"cost-center": "42"}})
    assert len(objects) > 12
    for each in objects:
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "flopwise", each
        assert labels["app.kubernetes.io/instance"] == RELEASE
        if each["metadata"].get("annotations", {}).get("helm.sh/hook") != "test":
            assert labels["helm.sh/chart"] == "flopwise-0.1.0"
            assert labels["app.kubernetes.io/managed-by"] == "Helm"
            assert labels["cost-center"] == "42"


def test_two_replicas_share_a_lease_beside_them_and_avoid_one_anothers_node(helm: Helm) -> None:
    deployment = the(rendered(helm), "Deployment")["spec"]
    assert deployment["replicas"] == 2
    pod = deployment["template"]["spec"]
    (avoids,) = pod["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert avoids["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    selector = deployment["selector"]["matchLabels"]
    assert avoids["podAffinityTerm"]["labelSelector"]["matchLabels"] == selector
    assert selector.items() <= deployment["template"]["metadata"]["labels"].items()


def test_values_become_arguments(helm: Helm) -> None:
    assert container(rendered(helm))["args"] == [
        *("operator", "run", "--lease-namespace=$(POD_NAMESPACE)"),
        *("--kube-api-qps=50", "--kube-api-burst=100"),
        *("--metrics-port=8080", "--health-port=8081"),
        *("--head-cpu=1", "--head-memory=4Gi"),
    ]
    told = {
        "observeOnly": True,
        "watchNamespaces": ["nlp", "search"],
        "kubeApi.qps": 12.5,
        "metrics.port": 9100,
        "ray.headCpu": "500m",
        "ray.headMemory": "2Gi",
        "extraArgs": ["--log-level=debug"],
    }
    args = container(rendered(helm, told))["args"]
    assert {"--observe-only", "--namespaces=nlp,search", "--kube-api-qps=12.5"} <= set(args)
    assert {"--head-cpu=500m", "--head-memory=2Gi"} <= set(args)
    assert args[-1] == "--log-level=debug"
    ports = {
        port["name"]: port["containerPort"] for port in container(rendered(helm, told))["ports"]
    }
    assert ports == {"metrics": 9100, "health": 8081}


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "flopwise/operator:0.1.0"),
        ({"image.tag": "main"}, "flopwise/operator:main"),
        (
            {"image.tag": "main", "image.digest": "sha256:" + "a" * 64},
            "flopwise/operator@sha256:" + "a" * 64,
        ),
    ],
)
def test_the_image_is_named_by_tag_or_by_digest(
    values: dict[str, Any], image: str, helm: Helm
) -> None:
    assert container(rendered(helm, values))["image"] == image


def test_what_needs_the_prometheus_operator_is_made_where_its_kinds_are(helm: Helm) -> None:
    both = {"metrics.serviceMonitor.enabled": True, "metrics.prometheusRule.enabled": True}
    kinds = ("ServiceMonitor", "PrometheusRule")
    without = rendered(helm, both)
    assert [kind for kind in kinds if of_kind(without, kind)] == []
    known = rendered(helm, both, *(f"--api-versions={kind}" for kind in MONITORING))
    assert [kind for kind in kinds if of_kind(known, kind)] == list(kinds)
    service = the(known, "Service")
    selected = the(known, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert selected.items() <= service["metadata"]["labels"].items()
    (endpoint,) = the(known, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    rules = the(known, "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert rules[0]["expr"] == 'absent(up{job="test-flopwise-metrics",namespace="gpus"} == 1)'


def test_one_replica_has_no_disruption_budget_and_no_network_policy_if_none_is_wanted(
    helm: Helm,
) -> None:
    assert len(of_kind(rendered(helm), "PodDisruptionBudget")) == 1
    assert len(of_kind(rendered(helm), "NetworkPolicy")) == 1
    few = rendered(helm, {"replicaCount": 1, "networkPolicy.enabled": False})
    assert of_kind(few, "PodDisruptionBudget") + of_kind(few, "NetworkPolicy") == []


def test_the_network_policy_lets_scrapers_in_and_the_operator_out_to_the_api_server(
    helm: Helm,
) -> None:
    scraper = {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
    values = {"networkPolicy.metricsFrom": [scraper], "networkPolicy.apiServerPorts": [16443]}
    spec = the(rendered(helm, values), "NetworkPolicy")["spec"]
    assert spec["ingress"][0] == {"ports": [{"port": 8080, "protocol": "TCP"}], "from": [scraper]}
    assert spec["egress"][1] == {"ports": [{"port": 16443, "protocol": "TCP"}]}


# -- rights -------------------------------------------------------------------------------------


def test_the_operator_has_no_right_but_those_it_uses(helm: Helm) -> None:
    objects = rendered(helm)
    cluster = granted(the(objects, "ClusterRole", "-cluster"))
    assert cluster.pop("flopwise.dev/gpupools/status") == {"patch"}
    assert cluster.pop("flopwise.dev/gpuqueues/status") == {"patch"}
    assert {frozenset(verbs) for verbs in cluster.values()} == {frozenset(READS)}
    workloads = granted(the(objects, "ClusterRole", "-workloads"))
    for resource in WORKLOADS:
        assert workloads.pop(resource) == {*READS, *WRITES}
    assert workloads.pop("jobset.x-k8s.io/jobsets") == {*READS, "patch"}  # people's own
    assert workloads == {
        "flopwise.dev/gpujobs": set(READS),
        "flopwise.dev/gpujobs/status": {"patch"},
        "pods": {"patch"},
        "batch/jobs/status": {"patch"},
        "services/proxy": {"get"},
        "secrets": {"create"},
        "services": {"create", "patch"},
        "networking.k8s.io/networkpolicies": {"create", "patch"},
        "events.k8s.io/events": {"create", "patch"},
    }
    every = [verb for verbs in granted(the(objects, "Role")).values() for verb in verbs]
    assert set(every) == {"get", "create", "update"}


def test_what_the_doctor_asks_for_is_what_the_chart_grants(helm: Helm) -> None:
    objects = rendered(helm)
    roles = (the(objects, "ClusterRole", name) for name in ("-cluster", "-workloads"))
    rights = {right for role in roles for right in rights_of(granted(role))}
    asked = {(path_of_right(right), right.verb) for right in doctor.RIGHTS}
    assert asked - rights == set()


def path_of_right(right: doctor.Right) -> str:
    parts = (right.resource.group, right.resource.plural, right.subresource)
    return "/".join(filter(None, parts))


def test_who_only_observes_may_change_nothing_but_what_it_says(helm: Helm) -> None:
    workloads = granted(the(rendered(helm, {"observeOnly": True}), "ClusterRole", "-workloads"))
    written = {path for path, verbs in workloads.items() if verbs - set(READS)}
    assert written == {"flopwise.dev/gpujobs/status", "events.k8s.io/events"}


def test_in_some_namespaces_only_the_rights_over_workloads_are_granted_there(helm: Helm) -> None:
    objects = rendered(helm, {"watchNamespaces": ["nlp", "search"]})
    bound = [
        (each["metadata"].get("namespace", ""), each["roleRef"]["name"])
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for each in of_kind(objects, kind)
    ]
    assert sorted(bound) == [
        ("", "gpus-test-flopwise-cluster"),
        ("", "test-flopwise-lease"),  # where the release is
        ("nlp", "gpus-test-flopwise-workloads"),
        ("search", "gpus-test-flopwise-workloads"),
    ]


def test_without_its_own_roles_the_chart_grants_nothing(helm: Helm) -> None:
    objects = rendered(helm, {"rbac.create": False})
    assert [each["kind"] for each in objects if "Role" in each["kind"]] == []


# -- installed ----------------------------------------------------------------------------------


def done_well(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def remove_our_kinds(wide: Cluster) -> None:
    kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    paths = [f"{kinds}/{document['metadata']['name']}" for document in definitions().values()]
    for path in paths:
        wide.remove(path)
    eventually(lambda: not any(map(wide.api.exists, paths)), "our kinds are gone")


def is_served(wide: Cluster, plural: str) -> bool:
    try:
        wide.api.get(f"/apis/flopwise.dev/v1alpha1/{plural}")
    except Refused as why:
        if why.code == http.client.NOT_FOUND:
            return False
        raise
    return True


def operators(wide: Cluster, namespace: str) -> Object:
    found: Object = wide.api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{FULL_NAME}")
    return found


def test_it_is_installed_upgraded_and_uninstalled(
    on_cluster: Helm, wide: Cluster, namespace: str
) -> None:
    remove_our_kinds(wide)
    before = of_the_release(wide, namespace)  # a release in another namespace may be there
    notes = done_well(on_cluster("install", RELEASE, CHART, "--wait", "--timeout=60s"))
    assert of_the_release(wide, namespace) > before
    assert f"kubectl -n {namespace} rollout status deployment/{FULL_NAME}" in notes
    assert f"{namespace}-{FULL_NAME}-manager" in notes
    status = operators(wide, namespace)["status"]
    assert (status["readyReplicas"], status["updatedReplicas"]) == (2, 2)
    ours = ("gpupools", "gpuqueues", "gpujobs")
    eventually(lambda: all(is_served(wide, plural) for plural in ours), "our kinds are served")

    three = setting({"replicaCount": 3, "observeOnly": True})
    done_well(on_cluster("upgrade", RELEASE, CHART, "--wait", "--timeout=60s", *three))
    assert operators(wide, namespace)["status"]["readyReplicas"] == 3
    done_well(on_cluster("rollback", RELEASE, "1", "--wait", "--timeout=60s"))
    assert operators(wide, namespace)["spec"]["replicas"] == 2

    done_well(on_cluster("uninstall", RELEASE, "--wait"))
    assert of_the_release(wide, namespace) == before
    assert is_served(wide, "gpujobs")  # people's jobs outlive the operator


def of_the_release(cluster: Cluster, namespace: str) -> set[str]:
    """What a release has made in its namespace and for the whole cluster, by kind and name."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    paths = (
        f"/apis/apps/v1/namespaces/{namespace}/deployments",
        f"/api/v1/namespaces/{namespace}/services",
        f"{rbac}/clusterroles",
        f"{rbac}/clusterrolebindings",
    )
    return {
        f"{path} {each['metadata']['name']}"
        for path in paths
        for each in cluster.api.get(path)["items"]
        if FULL_NAME in each["metadata"]["name"]
    }


def test_the_audit_log_tells_which_rights_were_used_and_which_were_missing(
    on_cluster: Helm, kinds: Cluster, namespace: str
) -> None:
    done_well(on_cluster("install", RELEASE, CHART))
    operator = kinds.api_as(FULL_NAME, namespace)
    who, since = f"system:serviceaccount:{namespace}:{FULL_NAME}", kinds.audit_offset()
    policies = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "ray"},
        "spec": {"podSelector": {}},
    }
    operator.apply(f"{policies}/ray", policy)
    operator.get("/api/v1/nodes")
    with pytest.raises(Refused, match="403 Forbidden"):
        operator.get(f"/api/v1/namespaces/{namespace}/secrets/token")

    def events() -> list[Object]:
        return list(kinds.audit(who, since))

    eventually(lambda: len(events()) == 3, "the audit log has the three requests")
    policy_of = "networking.k8s.io/networkpolicies"
    assert used(events()) == {(policy_of, "patch"), (policy_of, "create"), ("nodes", "list")}
    assert refused(events()) == {("secrets", "get")}


OURS, RAY, RBAC = "flopwise.dev", "ray.io", "rbac.authorization.k8s.io"


def may(api: Api, verb: str, resource: str, group: str = "", namespace: str = "") -> bool:
    """Whether who asks may, by the API server's own word; ``resource`` with its subresource."""
    name, _, subresource = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": name, "subresource": subresource}
    review = api.post(
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked | {"namespace": namespace}},
        },
    )
    allowed: bool = review["status"]["allowed"]
    return allowed


def test_the_installed_account_may_do_what_it_must_and_nothing_else(
    on_cluster: Helm, kinds: Cluster, namespace: str
) -> None:
    done_well(on_cluster("install", RELEASE, CHART))
    operator = kinds.api_as(FULL_NAME, namespace)
    must = [
        ("list", "nodes", ""),
        ("watch", "pods", ""),
        ("list", "resourceslices", "resource.k8s.io"),
        ("patch", "gpujobs/status", OURS),
        ("create", "rayjobs", RAY),
        ("delete", "jobs", "batch"),
        ("create", "secrets", ""),
    ]
    assert [right for right in must if not may(operator, *right)] == []
    assert may(operator, "update", "leases", "coordination.k8s.io", namespace)
    must_not = [
        *((verb, "secrets", "") for verb in ("get", "list", "watch", "patch", "delete")),
        *(("create", "pods", ""), ("delete", "pods", ""), ("create", "pods/exec", "")),
        *(("patch", "nodes", ""), ("impersonate", "users", "")),
        *(("create", "serviceaccounts/token", ""), ("create", "roles", RBAC)),
        *(("patch", "gpujobs", OURS), ("delete", "gpujobs", OURS), ("patch", "gpupools", OURS)),
        ("update", "leases", "coordination.k8s.io"),
    ]
    assert [right for right in must_not if may(operator, *right, namespace="elsewhere")] == []


def test_in_some_namespaces_only_it_has_no_rights_elsewhere(
    on_cluster: Helm, kinds: Cluster, namespace: str
) -> None:
    done_well(on_cluster("install", RELEASE, CHART, *setting({"watchNamespaces": [namespace]})))
    operator = kinds.api_as(FULL_NAME, namespace)
    for resource, group in (("rayjobs", RAY), ("secrets", "")):
        assert may(operator, "create", resource, group, namespace)
        assert not may(operator, "create", resource, group, "elsewhere")
    assert may(operator, "list", "pods")


def test_who_may_edit_a_namespace_may_submit_jobs_and_who_may_view_it_sees_them(
    on_cluster: Helm, kinds: Cluster, namespace: str
) -> None:
    done_well(on_cluster("install", RELEASE, CHART))
    view, edit = (account_with(kinds, namespace, role) for role in ("view", "edit"))
    eventually(lambda: may(view, "list", "gpujobs", OURS, namespace), "view covers our jobs")
    eventually(lambda: may(edit, "create", "gpujobs", OURS, namespace), "edit covers our jobs")
    assert not may(view, "create", "gpujobs", OURS, namespace)
    assert not may(edit, "patch", "gpujobs/status", OURS, namespace)
    assert not may(edit, "create", "gpuqueues", OURS)


def account_with(cluster: Cluster, namespace: str, role: str) -> Api:
    """The API server as an account that has a role of the cluster in that namespace."""
    own = {"name": role, "namespace": namespace}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": own}
    cluster.api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": own,
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", **own}],
    }
    cluster.api.post(f"/apis/{RBAC}/v1/namespaces/{namespace}/rolebindings", binding)
    return cluster.api_as(role, namespace)


def test_every_rendered_object_is_taken_by_a_strict_api_server(
    on_cluster: Helm, kinds: Cluster, namespace: str, tmp_path: Path
) -> None:
    values = {
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
            }
        ],
        "podDisruptionBudget.maxUnavailable": "50%",
        "networkPolicy.extraEgress": [{"ports": [{"port": 3128, "protocol": "TCP"}]}],
    }
    objects = done_well(on_cluster("template", RELEASE, CHART, *setting(values)))
    (tmp_path / "all.yaml").write_text(objects)
    where = (f"--kubeconfig={kinds.kubeconfig}", f"--namespace={namespace}")
    apply = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename")
    done = subprocess.run(
        [str(build.path_of("kubectl")), *where, *apply, str(tmp_path / "all.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "unknown field" not in done.stderr
    assert len(re.findall(r"serverside-applied", done.stdout)) == objects.count("\nkind: ")
