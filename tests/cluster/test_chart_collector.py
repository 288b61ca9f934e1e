"""The chart's collector through real Helm: a pod on each GPU node, with the least that it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api import Object, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import RELEASE, AddNodes, Helm
from tests.cluster.rights import granted
from tests.cluster.test_chart import (
    CHART,
    FULL_NAME,
    done_well,
    may,
    of_kind,
    rendered,
    setting,
    the,
)

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
NAME = f"{FULL_NAME}-collector"
ON = {"collector.enabled": True}
POD_MONITOR = "monitoring.coreos.com/v1/PodMonitor"


def pod(objects: list[Object]) -> Object:
    found: Object = the(objects, "DaemonSet")["spec"]["template"]
    return found


def container(objects: list[Object]) -> Object:
    (found,) = pod(objects)["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_it_is_off_unless_somebody_wants_it(helm: Helm) -> None:
    before, after = rendered(helm), rendered(helm, ON)
    assert [each for each in before if "collector" in each["metadata"]["name"]] == []
    added = sorted(each["kind"] for each in after)
    for each in before:
        added.remove(each["kind"])
    assert added == [
        *("ClusterRole", "ClusterRoleBinding", "DaemonSet", "NetworkPolicy", "ServiceAccount")
    ]


def test_it_is_root_without_a_capability_that_sees_two_folders_of_its_node(
    helm: Helm,
) -> None:
    objects = rendered(helm, ON)
    spec = pod(objects)["spec"]
    assert "hostPID" not in spec
    assert "hostNetwork" not in spec
    assert container(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    hosts = {each["name"]: each["hostPath"] for each in spec["volumes"] if "hostPath" in each}
    assert hosts == {
        "pod-resources": {"path": "/var/lib/kubelet/pod-resources", "type": "Directory"},
        "store": {"path": "/var/lib/flopwise", "type": "DirectoryOrCreate"},
    }
    mounts = {each["name"]: each for each in container(objects)["volumeMounts"]}
    assert mounts["pod-resources"]["readOnly"] is True
    assert granted(the(objects, "ClusterRole", "-collector")) == {
        "pods": {"list"},
        "resource.k8s.io/resourceslices": {"list"},
    }


def test_its_values_become_what_it_is_told(helm: Helm) -> None:
    assert container(rendered(helm, ON))["args"] == [
        *("telemetry", "serve", "--port=9402", "--interval=1s"),
        *("--kubelet-socket=/pod-resources/kubelet.sock", "--store=/store/samples.db"),
    ]
    told: dict[str, Any] = {
        **ON,
        "collector.port": 9500,
        "collector.dcgmCompatible": True,
        "collector.gpuResources": ["example.com/gpu"],
        "collector.store.enabled": False,
        "collector.hostPid": True,
        "collector.driver.runtimeClassName": "nvidia",
        "collector.driver.hostPath": "/run/nvidia/driver/usr/lib/x86_64-linux-gnu",
    }
    objects = rendered(helm, told)
    one, spec = container(objects), pod(objects)["spec"]
    assert one["args"][2:] == [
        *("--port=9500", "--interval=1s", "--kubelet-socket=/pod-resources/kubelet.sock"),
        *("--dcgm-compatible", "--gpu-resource=example.com/gpu"),
    ]
    assert (spec["hostPID"], spec["runtimeClassName"]) == (True, "nvidia")
    assert one["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_PTRACE"]}
    mounts = {each["name"]: each for each in one["volumeMounts"]}
    assert mounts["driver"] == {"name": "driver", "mountPath": "/driver", "readOnly": True}
    assert {"name": "LD_LIBRARY_PATH", "value": "/driver"} in one["env"]
    assert pod(objects)["metadata"]["annotations"]["prometheus.io/port"] == "9500"


def test_what_it_is_told_is_what_its_command_knows(helm: Helm) -> None:
    every = {**ON, "collector.dcgmCompatible": True, "collector.gpuResources": ["example.com/gpu"]}
    asked = subprocess.run(
        [sys.executable, "-m", "flopwise", "telemetry", "serve", "--help"],
        env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    for argument in container(rendered(helm, every))["args"][2:]:
        assert argument.partition("=")[0] in asked


def test_its_probes_and_its_scraper_ask_where_it_answers(helm: Helm) -> None:
    one = container(rendered(helm, ON))
    assert one["ports"] == [{"name": "metrics", "containerPort": 9402}]
    for probe in ("startupProbe", "livenessProbe"):
        assert one[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    wanted = {**ON, "collector.podMonitor.enabled": True}
    assert of_kind(rendered(helm, wanted), "PodMonitor") == []
    objects = rendered(helm, wanted, f"--api-versions={POD_MONITOR}")
    monitor = the(objects, "PodMonitor")["spec"]
    assert monitor["podMetricsEndpoints"] == [{"port": "metrics", "interval": "15s"}]
    labels = pod(objects)["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    operator = the(objects, "Service")["spec"]["selector"]
    assert not operator.items() <= labels.items()  # the operator's Service is not its


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("collector.store.hostPath", "var/lib"),
        ("collector.interval", "often"),
        ("collector.gpuResources", ["gpu"]),
        ("collector.sidecar", True),
        ("collector.image.digest", "sha256:1"),
        ("ray.headMemory", "much"),
        ("ray.headCpu", "-1"),
    ],
)
def test_a_bad_value_of_it_is_refused_by_its_name(
    path: str,
    value: object,
    helm: Helm,
) -> None:
    done = helm("template", RELEASE, CHART, *setting({**ON, path: value}))
    assert done.returncode != 0
    assert path.rpartition(".")[2] in done.stderr


def test_a_long_release_leaves_room_for_the_names_that_follow_from_it(
    helm: Helm,
) -> None:
    done = helm("template", "r" * 53, CHART, *setting(ON))
    found = re.findall(r"^  name: (r\S+)", done.stdout, re.MULTILINE)
    assert f"{'r' * 53}-collector" in found
    assert max(map(len, found)) <= 63


def test_installed_there_is_one_on_each_gpu_node_and_it_may_list_what_it_reads(
    on_cluster: Helm,
    wide: Cluster,
    namespace: str,
    nodes: AddNodes,
) -> None:
    own = f"/api/v1/namespaces/{namespace}"
    allowed = {"pod-security.kubernetes.io/enforce": "privileged"}
    wide.api.patch(own, {"metadata": {"labels": allowed}})
    hosts = nodes("h100", 2, prefix="collected", labels={"tests.flopwise.dev/pool": namespace})
    only = {**ON, "collector.nodeSelector": {"tests.flopwise.dev/pool": namespace}}
    done_well(on_cluster("install", RELEASE, CHART, *setting(only)))

    def where() -> list[str]:
        found = wide.api.get(f"{own}/pods", labelSelector="app.kubernetes.io/component=collector")[
            "items"
        ]
        return sorted(
            each["spec"]["nodeName"] for each in found if each["status"].get("phase") == "Running"
        )

    eventually(lambda: where() == sorted(hosts), "a pod runs on each GPU node", 60)
    account = wide.api_as(NAME, namespace)
    assert may(account, "list", "pods")
    assert may(account, "list", "resourceslices", "resource.k8s.io")
    for verb, resource in (("list", "nodes"), ("list", "secrets"), ("delete", "pods")):
        assert not may(account, verb, resource, namespace=namespace)
