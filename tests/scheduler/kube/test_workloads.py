"""A job and where it runs, as the objects that carry it out."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from planner.manifests.schema import GpuJob
from planner.problem import Amounts
from scheduler.kube import pods
from scheduler.kube.affinity import REQUIRED, Taint
from scheduler.kube.launch import (
    Capabilities,
    Gang,
    Launch,
    Settings,
    Unsupported,
    capabilities,
)
from scheduler.kube.names import PLACED
from scheduler.kube.ray_objects import model_source, parallelism
from scheduler.kube.ray_status import token_of
from scheduler.kube.workloads import Auth, auth_of, manifests, resource_of, scaled, scales, token
from tests.scheduler.kube.objects import job

START = datetime(2026, 12, 1, tzinfo=UTC)
TASK = {"replicas": 2, "gpus": 8, "hours": {"h100": 2.0}}
CHAT = {"model": "llama-3.3-70b", "promptTokens": 1000, "outputTokens": 250}
RAY = {"entrypoint": "python train.py", "image": "rayproject/ray:2.59.1-gpu"}
POD = {"podTemplate": {"spec": {"containers": [{"name": "main", "image": "busybox"}]}}}


def gang(**more: Any) -> Gang:
    stated: dict[str, Any] = {
        "pool": "h100",
        "accelerator": "h100-sxm5-80gb",
        "replicas": (("host-a", 1), ("host-b", 1)),
        "amounts": Amounts(gpu_milli=8000, cpu_milli=100_000, memory_bytes=1000 * 2**30),
    }
    return Gang(**stated | more)


def launch(made: GpuJob, *gangs: Gang, **more: Any) -> Launch:
    return Launch(job=made, uid="u1", gangs=gangs or (gang(),), start=START, **more)


def workload(made: GpuJob, *gangs: Gang, can: Capabilities | None = None) -> dict[str, Any]:
    *_, last = manifests(launch(made, *gangs), can=can or Capabilities())
    return last


def hosts(pod_spec: dict[str, Any]) -> list[str]:
    """The host names that the required node affinity ends in, the same in each term."""
    terms = pod_spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    (values,) = {tuple(term["matchExpressions"][-1]["values"]) for term in terms}
    return list(values)


@pytest.mark.parametrize(
    ("spec", "pools", "kind"),
    [
        ({"task": TASK, "run": RAY}, 1, "RayJob"),
        ({"task": TASK, "run": RAY | POD}, 2, "RayJob"),
        ({"task": TASK, "run": POD}, 1, "Job"),
        ({"task": TASK}, 1, "RayCluster"),
        ({"inference": CHAT | {"requestsPerSecond": 3}}, 2, "RayService"),
        ({"inference": CHAT | {"requestsPerSecond": 3}, "run": POD}, 1, "RayService"),
        (
            {"inference": CHAT | {"requestsPerSecond": 3}, "run": {"entrypoint": "app.web:api"}},
            1,
            "RayService",
        ),
        (
            {"inference": CHAT | {"requestsPerSecond": 3}, "run": {"entrypoint": "vllm serve x"}},
            1,
            "RayJob",
        ),
    ],
)
def test_what_a_job_states_decides_its_kind(spec: dict[str, Any], pools: int, kind: str) -> None:
    gangs = tuple(gang(pool=f"p{i}") for i in range(pools))
    assert resource_of(launch(job(**spec), *gangs)).kind == kind
    made = workload(job(**spec), *gangs)
    assert made["kind"] == kind


def test_a_ray_job_is_a_gang_or_nothing_on_the_nodes_of_the_plan() -> None:
    spec = workload(job(task=TASK, run=RAY, deadline="2026-12-01T05:00:00Z"))["spec"]
    assert spec["suspend"] is True
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submissionMode"] == "K8sJobMode"
    assert "ttlSecondsAfterFinished" not in spec  # its GPUs are free at once
    assert spec["activeDeadlineSeconds"] == 5 * 3600
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == "2.59.1"
    (group,) = cluster["workerGroupSpecs"]
    assert {group[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {2}
    assert group["rayStartParams"] == {"num-gpus": "8", "num-cpus": "100"}
    assert hosts(group["template"]["spec"]) == ["host-a", "host-b"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"] == {
        "requests": {
            "nvidia.com/gpu": "8",
            "cpu": "100",
            "memory": str(1000 * 2**30),
        },
        "limits": {"nvidia.com/gpu": "8", "memory": str(1000 * 2**30)},
    }


def test_the_head_has_nothing_for_ray_to_give_out_and_no_gpu() -> None:
    head = workload(job(task=TASK, run=RAY))["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["rayStartParams"]["num-gpus"] == "0"
    (container,) = head["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert REQUIRED not in head["template"]["spec"]["affinity"]["nodeAffinity"]
    assert head["template"]["spec"]["automountServiceAccountToken"] is False


def test_a_pool_is_a_worker_group_with_its_own_taints() -> None:
    spot = Taint(key="spot", value="yes")
    made = workload(
        job(task=TASK, run=RAY),
        gang(pool="one"),
        gang(pool="two.b", replicas=(("host-c", 3),), taints=(spot,)),
    )
    one, two = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert one["groupName"] == "one"
    assert "." not in two["groupName"]
    assert two["replicas"] == 3
    assert hosts(two["template"]["spec"]) == ["host-c"]
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert one["template"]["spec"]["tolerations"] == [gpu]
    assert two["template"]["spec"]["tolerations"] == [gpu, spot.toleration()]


def test_other_work_than_tasks_leaves_a_tenth_of_its_share_of_the_node() -> None:
    training = {"model": "llama-3.1-8b", "tokens": 1e9, "gpus": 16}
    spec = workload(job(training=training, run=RAY))["spec"]["rayClusterSpec"]
    (container,) = spec["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["cpu"] == "90"
    assert container["resources"]["requests"]["memory"] == str(900 * 2**30)


@pytest.mark.parametrize(
    ("amounts", "more", "expected"),
    [
        (Amounts(gpu_milli=8000), {}, ("nvidia.com/gpu", 8, 8)),
        (Amounts(mig=(("1g.10gb", 1),)), {}, ("nvidia.com/mig-1g.10gb", 1, 1)),
        (Amounts(mig=(("1g.10gb+me", 1),)), {}, ("nvidia.com/mig-1g.10gb.me", 1, 1)),
        (Amounts(mig=(("1g.10gb", 1),)), {"mig_as_gpu": True}, ("nvidia.com/gpu", 1, 1)),
        # A quarter of a GPU that is advertised for 8 pods: 2 of the 8.
        (
            Amounts(gpu_milli=250),
            {"shares": 8, "resource": "nvidia.com/gpu.shared"},
            ("nvidia.com/gpu.shared", 2, 1),
        ),
        (Amounts(gpu_milli=300), {"shares": 8}, ("nvidia.com/gpu", 3, 1)),
        (Amounts(gpu_milli=2000), {"shares": 4}, ("nvidia.com/gpu", 8, 2)),
    ],
)
def test_a_replica_asks_for_its_gpus_and_ray_is_told_how_many_they_are(
    amounts: Amounts, more: dict[str, Any], expected: tuple[str, int, int]
) -> None:
    resource, count, ray = expected
    made = workload(job(task=TASK, run=RAY), gang(amounts=amounts, **more))
    (group,) = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {resource: str(count)}
    assert group["rayStartParams"] == {"num-gpus": str(ray)}


def test_a_share_of_a_gpu_that_nobody_shares_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"spec\.task\.gpuFraction: found 0\.25 on pool h100"):
        workload(job(task=TASK, run=RAY), gang(amounts=Amounts(gpu_milli=250)))


def test_a_program_is_told_who_it_is_and_gets_time_to_save() -> None:
    saves = {"intervalSeconds": 600, "saveSeconds": 45.2, "restartSeconds": 60}
    made = launch(job(task=TASK, run=RAY, checkpoint=saves), attempt=3)
    *_, ray_job = manifests(made, Settings(checkpoint_root="s3://bucket/ckpt/", stop_seconds=10))
    assert ray_job["metadata"]["annotations"] == {"flopwise.dev/attempt": "3"}
    cluster = ray_job["spec"]["rayClusterSpec"]
    for part in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = part["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == 46 + 10
        (container,) = pod["containers"]
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert env["FLOPWISE_ATTEMPT"] == "3"
        assert env["FLOPWISE_CHECKPOINT_DIR"] == "s3://bucket/ckpt/ml/train"
        assert env["FLOPWISE_GPUS"] == "16"
        assert env["FLOPWISE_DRAIN_FILE"] == "/etc/flopwise/drain"
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"flopwise": "/var/run/flopwise", "flopwise-notices": "/etc/flopwise"}
        assert [volume["name"] for volume in pod["volumes"]] == list(mounts)
    head, worker = (
        part["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
        for part in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    )
    assert "-lt 46 ]" in head  # the program runs on the head
    assert head.endswith("; ray stop")
    assert worker == "ray stop"


def test_one_that_saves_nothing_is_not_waited_for() -> None:
    made = launch(job(task=TASK, run=RAY, checkpoint={"saveSeconds": 45.0}))
    assert pods.save_seconds(made) == 0
    assert pods.grace_seconds(made, Settings()) == 30


def test_the_same_launch_is_the_same_bytes() -> None:
    made = [json.dumps(manifests(launch(job(task=TASK, run=RAY)))) for _ in range(2)]
    assert made[0] == made[1]


def test_all_that_is_made_belongs_to_its_job() -> None:
    made = manifests(launch(job(task=TASK, run=POD, queue="research", labels={})))
    assert [each["kind"] for each in made] == ["Service", "Job"]
    for each in made:
        (owner,) = each["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("GpuJob", "u1", True)
        assert each["metadata"]["namespace"] == "ml"
        labels = each["metadata"]["labels"]
        assert labels["flopwise.dev/job"] == "train"
        assert labels["flopwise.dev/queue"] == labels["flopwise.dev/team"] == "research"


def test_a_job_begun_anew_after_a_failure_has_another_name() -> None:
    first, second = (launch(job(task=TASK, run=RAY), round=n).name for n in (1, 2))
    assert first == "train"
    assert second.startswith("train-2-")
    assert launch(job("train-2", task=TASK, run=RAY)).name == "train-2"


def test_the_token_is_kubray_s_where_it_can_and_ours_where_it_cannot() -> None:
    run = job(task=TASK, run=RAY)
    by_options = workload(run, can=Capabilities(auth_options=True))["spec"]
    assert by_options["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "RAY_AUTH_TOKEN" not in json.dumps(by_options)
    by_environment = workload(run)["spec"]
    assert "authOptions" not in by_environment["rayClusterSpec"]
    cluster = by_environment["rayClusterSpec"]
    containers = [
        part["template"]["spec"]["containers"][0]
        for part in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ] + by_environment["submitterPodTemplate"]["spec"]["containers"]
    secret = {"name": "train-ray-token", "key": "auth_token"}
    for container in containers:
        env = {each["name"]: each for each in container["env"]}
        assert env["RAY_AUTH_MODE"]["value"] == "token"
        assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == secret
    made = token(launch(run), "s3cret")
    assert (made["metadata"]["name"], made["stringData"]) == (
        "train-ray-token",
        {"auth_token": "s3cret"},
    )


def test_a_service_of_an_old_kuberay_and_whoever_says_so_go_without_a_token() -> None:
    service = launch(job(inference=CHAT | {"requestsPerSecond": 3}))
    ray = launch(job(task=TASK, run=RAY))
    old, new = Capabilities(), Capabilities(auth_options=True)
    assert auth_of(resource_of(service), old, Settings()) is Auth.NONE
    assert auth_of(resource_of(service), new, Settings()) is Auth.OPTIONS
    assert auth_of(resource_of(ray), old, Settings(token_auth=False)) is Auth.NONE


def test_a_policy_is_around_the_dashboard() -> None:
    policy, _ = manifests(launch(job(task=TASK, run=RAY)), Settings(operator_namespace="ops"))
    spec = policy["spec"]
    mine = {"matchLabels": {"flopwise.dev/job": "train"}}
    assert (policy["kind"], spec["podSelector"]) == ("NetworkPolicy", mine)
    inside, operators = spec["ingress"]
    assert inside == {"from": [{"podSelector": mine}]}
    assert [port["port"] for port in operators["ports"]] == [8265, 8000, 52365]
    kuberay, flopwise = operators["from"]
    assert kuberay["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    assert flopwise["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}


def test_a_service_serves_its_model_with_the_replicas_of_the_plan() -> None:
    # 8 GPUs a pod in tensor parallel 4: two replicas of the model a pod, four in two pods.
    made = workload(
        job(inference=CHAT | {"requestsPerSecond": 3, "precision": "fp8"}), gang(layout="tp4")
    )
    assert made["spec"]["upgradeStrategy"] == {"type": "None"}
    assert "suspend" not in made["spec"]["rayClusterConfig"]
    (application,) = yaml.safe_load(made["spec"]["serveConfigV2"])["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    (llm,) = application["args"]["llm_configs"]
    assert llm["deployment_config"] == {"num_replicas": 4}
    assert llm["engine_kwargs"] == {
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 1,
        "max_model_len": 3072,  # twice 1250, in whole thousands
        "quantization": "fp8",
    }
    assert llm["model_loading_config"]["model_source"] == model_source("llama-3.3-70b")
    assert "/" in model_source("llama-3.3-70b")


def test_a_layout_gives_its_degrees() -> None:
    assert parallelism("tp2 pp3 dp8", 48) == (2, 3)
    assert parallelism("fsdp8", 8) == (8, 1)


def test_an_app_of_one_s_own_is_served_as_it_is() -> None:
    run = {"entrypoint": "app.web:api", "runtimeEnv": {"pip": ["x"]}, "image": "mine:1"}
    made = workload(job(inference=CHAT | {"requestsPerSecond": 3}, run=run))
    (application,) = yaml.safe_load(made["spec"]["serveConfigV2"])["applications"]
    assert application["import_path"] == "app.web:api"
    assert application["runtime_env"] == {"pip": ["x"]}


def test_a_plain_job_is_indexed_with_a_pod_a_replica() -> None:
    template = {
        "metadata": {"labels": {"mine": "x"}},
        "spec": {
            "priorityClassName": "high",
            "nodeSelector": {"zone": "z1"},
            "containers": [
                {"name": "side", "image": "log"},
                {
                    "name": "main",
                    "image": "busybox",
                    "env": [{"name": "FLOPWISE_JOB", "value": "mine"}, {"name": "A", "value": "b"}],
                    "resources": {"limits": {"memory": "1Gi", "example.com/nic": "1"}},
                },
            ],
        },
    }
    service, made = manifests(launch(job(task=TASK, run={"podTemplate": template})))
    spec = made["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert (spec["suspend"], spec["podReplacementPolicy"]) == (True, "Failed")
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    pod = spec["template"]["spec"]
    assert (pod["priorityClassName"], pod["nodeSelector"]) == ("high", {"zone": "z1"})
    assert (pod["subdomain"], hosts(pod)) == ("train", ["host-a", "host-b"])
    assert spec["template"]["metadata"]["labels"]["mine"] == "x"
    assert spec["template"]["metadata"]["labels"]["flopwise.dev/job"] == "train"
    side, main = pod["containers"]
    assert side == {"name": "side", "image": "log"}
    env = {each["name"]: each["value"] for each in main["env"]}
    assert (env["FLOPWISE_JOB"], env["A"], env["MASTER_ADDR"]) == ("mine", "b", "train-0.train")
    assert main["resources"]["limits"] == {  # the plan's GPUs and memory, and what is theirs
        "nvidia.com/gpu": "8",
        "memory": str(1000 * 2**30),
        "example.com/nic": "1",
    }
    assert service["spec"]["clusterIP"] == "None"


def test_a_template_without_a_container_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"spec\.run\.podTemplate\.spec\.containers"):
        workload(job(task=TASK, run={"podTemplate": {"spec": {"priorityClassName": "x"}}}))


def test_without_kuberay_what_needs_it_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="no KubeRay"):
        workload(job(task=TASK, run=RAY), can=Capabilities(ray=False))


def test_a_template_merges_into_the_ray_worker_and_cannot_move_it() -> None:
    template = {
        "spec": {
            "affinity": {
                "nodeAffinity": {
                    REQUIRED: {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}
                        ]
                    }
                }
            },
            "containers": [
                {"name": "main", "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
                {"name": "side", "image": "log"},
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "tolerations": [{"key": "x", "operator": "Exists"}],
        }
    }
    made = workload(job(task=TASK, run=RAY | {"podTemplate": template}))
    (group,) = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    worker, side = pod["containers"]
    assert (worker["name"], worker["image"], side["name"]) == (
        "ray-worker",
        "rayproject/ray:2.59.1-gpu",
        "side",
    )
    assert [mount["mountPath"] for mount in worker["volumeMounts"]] == [
        pods.FOLDER,
        pods.NOTICES,
        "/data",
    ]
    assert [volume["name"] for volume in pod["volumes"]] == ["flopwise", "flopwise-notices", "data"]
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["x", "nvidia.com/gpu"]
    (term,) = pod["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    assert [each["key"] for each in term["matchExpressions"]] == ["zone", "kubernetes.io/hostname"]


def test_the_head_shares_the_volumes_and_not_the_gpus_of_a_template() -> None:
    main = {
        "name": "main",
        "env": [{"name": "A", "value": "b"}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "resources": {"limits": {"example.com/nic": "1"}},
    }
    template = {
        "spec": {
            "nodeSelector": {"zone": "z1"},
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [main],
        }
    }
    spec = workload(job(task=TASK, run=RAY | {"podTemplate": template}))["spec"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (container,) = head["containers"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [
        pods.FOLDER,
        pods.NOTICES,
        "/data",
    ]
    assert {"name": "A", "value": "b"} in container["env"]
    assert "example.com/nic" not in container["resources"]["limits"]
    assert "nodeSelector" not in head
    assert [volume["name"] for volume in head["volumes"]] == [
        "flopwise",
        "flopwise-notices",
        "data",
    ]
    assert spec["submitterPodTemplate"]["spec"]["imagePullSecrets"] == [{"name": "pull"}]


def test_a_token_is_another_for_each_job_and_the_same_each_time() -> None:
    one, other = (launch(job(name, task=TASK, run=RAY)) for name in ("a", "b"))
    assert token_of(b"key", one) == token_of(b"key", one)
    assert len({token_of(b"key", one), token_of(b"key", other), token_of(b"yek", one)}) == 3


def test_null_in_a_template_takes_a_default_of_ours_away() -> None:
    assert pods.merged({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": None}}, "main") == {
        "a": 1,
        "b": {"d": 3},
    }


def crd(name: str, *fields: str) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for field in fields:
        at = schema
        for step in field.split("."):
            at = at.setdefault("properties", {}).setdefault(step, {})
    return {
        "metadata": {"name": name},
        "spec": {
            "versions": [
                {"name": "v1alpha1", "schema": {"openAPIV3Schema": {}}},
                {"name": "v1", "schema": {"openAPIV3Schema": schema}},
            ]
        },
    }


def test_what_can_be_used_is_read_from_the_cluster_s_definitions() -> None:
    old = [crd("rayjobs.ray.io", "spec.suspend"), crd("rayservices.ray.io")]
    assert capabilities(old) == Capabilities()
    fields = ("spec.rayClusterSpec.authOptions", "spec.preRunningDeadlineSeconds")
    new = [
        crd("rayjobs.ray.io", *fields),
        crd("rayservices.ray.io"),
    ]
    assert capabilities(new) == Capabilities(auth_options=True, pre_running_deadline=True)
    assert capabilities([]) == replace(Capabilities(), ray=False)
    made = workload(job(task=TASK, run=RAY), can=capabilities(new))
    assert made["spec"]["preRunningDeadlineSeconds"] == 900


# -- a service that has more or fewer replicas -----------------------------------------------------

BUSY = {**CHAT, "requestsPerSecond": 3}


def worker(name: str, node: str, *, made: str = "01", group: str = "h100", **more: Any) -> Any:
    """A pod of a Ray of ours."""
    metadata = {
        "name": name,
        "labels": {"ray.io/group": group},
        "creationTimestamp": f"2026-12-{made}T00:00:00Z",
        **more,
    }
    spec = {"nodeName": node} if node else {}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}


def ray_of(service: dict[str, Any]) -> dict[str, Any]:
    """The RayCluster that KubeRay makes of it."""
    spec = json.loads(json.dumps(service["spec"]["rayClusterConfig"]))
    return {"metadata": {"name": "train-abc", "generation": 7}, "spec": spec}


def noted(service: dict[str, Any], text: str) -> dict[str, Any]:
    service["metadata"]["annotations"][PLACED] = text
    return service


def test_a_service_grows_on_the_ray_that_is_there_and_on_just_its_nodes() -> None:
    made = job(inference=BUSY)
    one = workload(made, gang(replicas=(("host-a", 1),)))
    three = noted(workload(made, gang(replicas=(("host-a", 1), ("host-b", 2)))), "text")
    test, note, groups = scaled(ray_of(one), three, [worker("w0", "a")], {"a": 1, "b": 2})
    assert test == {"op": "test", "path": "/metadata/generation", "value": 7}
    assert note["path"] == "/metadata/annotations/flopwise.dev~1placed"
    assert note["value"] == "text"
    (group,) = groups["value"]
    counts = [group[field] for field in ("replicas", "minReplicas", "maxReplicas")]
    assert counts == [3, 3, 3]
    assert hosts(group["template"]["spec"]) == ["host-a", "host-b"]
    assert group["scaleStrategy"] == {}


def test_it_shrinks_by_the_pods_on_the_nodes_that_it_gives_back_and_by_those_on_none() -> None:
    # On `a` stays the older of two; `b` is given back; `pending` waits for `b`; the head is not in
    # the group, and what is on its way out, or has ended, counts for nothing.
    made = job(inference=BUSY)
    many = workload(made, gang(replicas=(("host-a", 2), ("host-b", 1))))
    one = noted(workload(made, gang(replicas=(("host-a", 1),))), "text")
    ended = worker("ended", "a")
    ended["status"]["phase"] = "Failed"
    pods_of = [
        worker("young", "a", made="03"),
        worker("old", "a", made="02"),
        worker("other", "b"),
        worker("pending", ""),
        worker("head", "a", group=""),
        worker("leaving", "a", deletionTimestamp="2026-12-01T00:00:00Z"),
        ended,
    ]
    *_, groups = scaled(ray_of(many), one, pods_of, {"a": 1})
    (group,) = groups["value"]
    assert group["replicas"] == 1
    assert group["scaleStrategy"] == {"workersToDelete": ["other", "pending", "young"]}
    assert hosts(group["template"]["spec"]) == ["host-a"]


@pytest.mark.parametrize(
    ("spec", "does"),
    [
        ({"inference": BUSY}, True),
        ({"inference": BUSY, "run": {"entrypoint": "serve:app"}}, True),
        ({"inference": BUSY, "run": {"entrypoint": "python serve.py"}}, False),
        ({"task": TASK}, False),
    ],
)
def test_only_a_ray_service_takes_more_or_fewer_replicas(spec: Any, does: bool) -> None:
    assert scales(job(**spec)) is does
