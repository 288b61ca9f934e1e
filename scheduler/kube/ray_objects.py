"""The parts of KubeRay's objects: head, worker groups, submitter, Serve's configuration.

KubeRay 1.5 takes what stands here, and so do later ones. It finds the GPUs of a pod only where its
resource ends in ``gpu`` or is a MIG profile of the plain kind: ``num-gpus`` is therefore always
said. The head has no CPUs for Ray to give out, so that no task of a job lands beside its control.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping

from cost_models.accelerators import Precision
from cost_models.architectures import resolve_architecture
from planner.manifests.write import plain_yaml
from scheduler.kube import pods
from scheduler.kube.affinity import PREFERRED, with_tolerations
from scheduler.kube.api import Raw
from scheduler.kube.launch import Gang, Launch, Settings
from scheduler.kube.names import HOSTNAME, POOL, child_name, label_value
from scheduler.kube.quantities import ENDED

HEAD, WORKER, SUBMITTER = "ray-head", "ray-worker", "ray-job-submitter"
TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105  # the variable that Ray reads it from
TOKEN_KEY = "auth_token"  # noqa: S105  # the key under which a Secret has it
GROUP_NAME_CHARACTERS = 40
EVERYWHERE = "0.0.0.0"  # noqa: S104  # inside its pod; who gets there is the NetworkPolicy's
_STOP = ["/bin/sh", "-c", "ray stop"]
_FOR_ALL = ("imagePullSecrets", "securityContext", "serviceAccountName", "volumes")
_OF_MAIN = ("env", "envFrom", "imagePullPolicy", "securityContext", "volumeMounts")
_VERSION = re.compile(r":(?:nightly-)?v?(\d+\.\d+\.\d+)")
_QUANTIZATION = {Precision.FP8: "fp8", Precision.INT8: "int8", Precision.INT4: "awq"}


def group_name(gang: Gang) -> str:
    """Of the worker group of a pool."""
    return child_name(gang.pool, GROUP_NAME_CHARACTERS)


def token_name(launch: Launch) -> str:
    """Of the Secret that has the token."""
    return "-".join(filter(None, (f"{launch.name}-ray-token", launch.token_mark)))


def token_of_job(ray_job: Raw) -> str:
    """The name of the Secret that the Ray of a RayJob has its token from; empty: from none."""
    cluster = ray_job["spec"].get("rayClusterSpec") or {}
    template = (cluster.get("headGroupSpec") or {}).get("template") or {}
    for container in (template.get("spec") or {}).get("containers") or ():
        for each in container.get("env") or ():
            if each.get("name") == TOKEN:
                source = (each.get("valueFrom") or {}).get("secretKeyRef") or {}
                return str(source.get("name", ""))
    return ""


def image_of(launch: Launch, settings: Settings) -> str:
    """The image of a job's pods."""
    serves = launch.job.spec.inference is not None and not launch.job.spec.run.entrypoint
    return launch.job.spec.run.image or (settings.serve_image if serves else settings.image)


def ray_version(image: str, settings: Settings) -> str:
    """The version that an image's tag says, else the one that is set.

    >>> ray_version("rayproject/ray:2.59.1-gpu", Settings())
    '2.59.1'
    """
    found = _VERSION.search(image)
    return found[1] if found else settings.ray_version


def cluster_spec(launch: Launch, settings: Settings, *, by_environment: bool) -> Raw:
    """A RayCluster: a head, and a worker group a pool that is there in full or not at all."""
    image = image_of(launch, settings)
    env = [*pods.environment(launch, settings), *(_token_env(launch) if by_environment else ())]
    return {
        "rayVersion": ray_version(image, settings),
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": EVERYWHERE},
            "template": _head(launch, settings, image, env),
        },
        "workerGroupSpecs": [
            {
                "groupName": group_name(gang),
                "replicas": gang.count,
                "minReplicas": gang.count,
                "maxReplicas": gang.count,
                "numOfHosts": 1,
                "scaleStrategy": {},  # KubeRay adds it, and without it to apply again was a change
                "rayStartParams": _worker_params(gang),
                "template": _worker(launch, settings, gang, image, env),
            }
            for gang in launch.gangs
        ],
    }


def scaled_group(group: Raw, wanted: Raw, workers: Iterable[Raw], places: Mapping[str, int]) -> Raw:
    """A worker group of a RayCluster that is there, with as many replicas as are ``wanted``."""
    made = copy.deepcopy(group)
    made |= {field: wanted[field] for field in ("replicas", "minReplicas", "maxReplicas")}
    surplus = _surplus(places, (pod for pod in workers if _group_of(pod) == group["groupName"]))
    made["scaleStrategy"] = {"workersToDelete": surplus} if surplus else {}
    made["template"]["spec"] |= {
        field: wanted["template"]["spec"][field] for field in ("affinity", "tolerations")
    }
    return made


def _group_of(pod: Raw) -> str:
    return str((pod["metadata"].get("labels") or {}).get("ray.io/group", ""))


def _surplus(places: Mapping[str, int], workers: Iterable[Raw]) -> list[str]:
    """Pods on a node beyond those that are to be there, the youngest, and those on none."""
    room = dict(places)
    found = []
    for pod in sorted(workers, key=lambda pod: str(pod["metadata"].get("creationTimestamp", ""))):
        if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") in ENDED:
            continue
        node = pod["spec"].get("nodeName", "")
        room[node] = room.get(node, 0) - 1
        if room[node] < 0:
            found.append(str(pod["metadata"]["name"]))
    return sorted(found)


def _worker_params(gang: Gang) -> dict[str, str]:
    params = {"num-gpus": str(gang.ray_gpus)}
    if gang.amounts.cpu_milli:
        params["num-cpus"] = str(max(1, gang.amounts.cpu_milli // 1000))
    return params


def _token_env(launch: Launch) -> list[Raw]:
    secret = {"name": token_name(launch), "key": TOKEN_KEY}
    return [
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": TOKEN, "valueFrom": {"secretKeyRef": secret}},
    ]


def _pod(launch: Launch, settings: Settings, container: Raw) -> Raw:
    """What the head and the workers have in common."""
    container["volumeMounts"] = list(pods.MOUNTS)
    # The program runs on the head; workers have nothing of their own to save.
    waits = pods.drain_command(launch, "ray stop") if container["name"] == HEAD else _STOP
    container["lifecycle"] = {"preStop": {"exec": {"command": waits}}}
    return {
        "metadata": {"labels": {}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": pods.grace_seconds(launch, settings),
            "containers": [container],
            "volumes": list(pods.VOLUMES),
        },
    }


def _head(launch: Launch, settings: Settings, image: str, env: list[Raw]) -> Raw:
    """Near its workers where there is room, else anywhere: it needs no GPU."""
    has = {"cpu": settings.head_cpu, "memory": settings.head_memory}
    named = {"gcs": 6379, "dashboard": 8265, "client": 10001}
    if launch.job.spec.inference is not None:
        named["serve"] = 8000
    container = {
        "name": HEAD,
        "image": image,
        "env": env,
        "ports": [{"name": name, "containerPort": port} for name, port in named.items()],
        "resources": {"requests": has, "limits": {"memory": settings.head_memory}},
    }
    made = pods.merged(_pod(launch, settings, container), _shared(launch), HEAD)
    made["metadata"]["labels"] = pods.labels(launch)
    made["spec"] |= _beside(launch)
    return made


def _shared(launch: Launch) -> Raw:
    """What of the user's template is for the head too, where the program itself runs: whatever is
    not about GPUs or nodes."""
    stated = launch.job.spec.run.pod_template.get("spec") or {}
    spec = {field: stated[field] for field in _FOR_ALL if field in stated}
    mains = [c for c in stated.get("containers") or () if c.get("name") in (pods.MAIN, WORKER)]
    spec["containers"] = [
        {"name": HEAD, **{field: main[field] for field in _OF_MAIN if field in main}}
        for main in mains
    ]
    return {"spec": spec}


def _beside(launch: Launch) -> Raw:
    """Preferred, not required: on one of the job's nodes."""
    hosts = sorted({host for gang in launch.gangs for host in gang.hostnames})
    near = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": hosts}]}
    return {
        "affinity": {"nodeAffinity": {PREFERRED: [{"weight": 1, "preference": near}]}},
        "tolerations": with_tolerations((), (pods.GPU_TAINT, *launch.taints)),
    }


def _worker(launch: Launch, settings: Settings, gang: Gang, image: str, env: list[Raw]) -> Raw:
    container = {"name": WORKER, "image": image, "env": env}
    theirs = launch.job.spec.run.pod_template
    made = pods.merged(_pod(launch, settings, container), theirs, WORKER)
    worker = next(each for each in made["spec"]["containers"] if each["name"] == WORKER)
    has = pods.resources(launch, gang)
    worker["resources"] = pods.over(worker.get("resources") or {}, has)
    made["metadata"].setdefault("labels", {}).update(
        {**pods.labels(launch), POOL: label_value(gang.pool)}
    )
    made["spec"] = pods.on_nodes(made["spec"], gang)
    return made


def submitter(launch: Launch, settings: Settings, *, by_environment: bool) -> Raw:
    """The pod that hands the entrypoint to Ray and follows its log."""
    container: Raw = {
        "name": SUBMITTER,
        "image": image_of(launch, settings),
        "resources": {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"memory": "1Gi"},
        },
    }
    if by_environment:
        container["env"] = _token_env(launch)
    stated = launch.job.spec.run.pod_template.get("spec") or {}
    pulls = {"imagePullSecrets": stated["imagePullSecrets"]} if "imagePullSecrets" in stated else {}
    return {
        "metadata": {"labels": pods.labels(launch)},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [container],
            **pulls,
            **_beside(launch),
        },
    }


def runtime_env(launch: Launch) -> str:
    """As YAML, of which JSON is a part."""
    return json.dumps(launch.job.spec.run.runtime_env, sort_keys=True)


# -- Serve -----------------------------------------------------------------------------------------


def serve_config(launch: Launch, is_app: Callable[[str], bool]) -> str:
    """Serve's configuration: the app that the entrypoint names, or an OpenAI API of the model."""
    entrypoint = launch.job.spec.run.entrypoint.strip()
    application: Raw = {"name": launch.name, "route_prefix": "/"}
    if entrypoint and is_app(entrypoint):
        application["import_path"] = entrypoint
    else:
        application["import_path"] = "ray.serve.llm:build_openai_app"
        application["args"] = {"llm_configs": [_llm(launch, gang) for gang in launch.gangs]}
    if launch.job.spec.run.runtime_env:
        application["runtime_env"] = launch.job.spec.run.runtime_env
    return plain_yaml({"applications": [application]})


def _llm(launch: Launch, gang: Gang) -> Raw:
    """One deployment a pool: as many replicas of the model as the plan has there."""
    work = launch.job.spec.inference
    assert work is not None
    degrees = parallelism(gang.layout, gang.ray_gpus)
    engine: Raw = {
        "tensor_parallel_size": degrees[0],
        "pipeline_parallel_size": degrees[1],
        "max_model_len": _context(work.prompt_tokens + work.output_tokens),
    }
    if work.precision in _QUANTIZATION:
        engine["quantization"] = _QUANTIZATION[work.precision]
    else:
        engine["dtype"] = "float16" if work.precision == Precision.FP16 else "bfloat16"
    name = work.model if len(launch.gangs) == 1 else f"{work.model}-{group_name(gang)}"
    return {
        "model_loading_config": {"model_id": name, "model_source": model_source(work.model)},
        "deployment_config": {
            "num_replicas": gang.count * gang.ray_gpus // (degrees[0] * degrees[1])
        },
        "engine_kwargs": engine,
    }


def parallelism(layout: str, gpus: int) -> tuple[int, int]:
    """Tensor and pipeline degrees of a replica's layout; without one, all its GPUs are one tensor.

    >>> parallelism("tp4 pp2", 8), parallelism("", 4)
    ((4, 2), (4, 1))
    """
    stated = {kind: int(n) for kind, n in re.findall(r"\b(tp|pp)(\d+)", layout)}
    return (stated.get("tp", 1), stated.get("pp", 1)) if stated else (max(1, gpus), 1)


def _context(tokens: int) -> int:
    """Room for requests of twice the typical length, in whole thousands of tokens."""
    return -(-2 * tokens // 1024) * 1024


def model_source(model: str) -> str:
    """Where the weights are: the model's name at its hub where the catalog has it."""
    row = resolve_architecture(model)
    return next((alias for alias in row.aliases if "/" in alias), row.id)
