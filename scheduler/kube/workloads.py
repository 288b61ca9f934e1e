"""A job and where it runs to the objects that carry it out: which kind, and all of its fields.

| the job states | it becomes |
|---|---|
| inference; no entrypoint, or ``module:app`` | RayService: Serve LLM of its model, or that app |
| an entrypoint | RayJob: one worker group a pool |
| a pod template, and no entrypoint | Job (indexed, a pod a replica) |
| neither | RayCluster, for its user to connect to |

A gang without Ray runs on one pool: the operator decides on one for each. It makes no JobSet.

A gang runs whole or not at all: its nodes were chosen with room for all of it, what is made is
suspended, and has as many replicas at least and at most. It is released in one piece. Names follow
from the job's, so that a launch that is carried out twice is carried out once.

A RayService cannot be suspended: it is made when it is to run, and deleted to stop it. It is given
more or fewer replicas as it runs by `scaled`, on the RayCluster that KubeRay has made of it.

Ray's dashboard starts programs for whoever reaches it. Where KubeRay's definitions have
``authOptions`` it asks for a token; where they do not, our Secret has the token and the environment
tells Ray. KubeRay before 1.5.1 sends no token itself: it then cannot read the status of a job, for
which `scheduler.kube.phases` asks in its place, and could not set up a RayService at all, which
goes without. A NetworkPolicy is around all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum

from planner.manifests.schema import GpuJob
from scheduler.kube import pods, ray_objects
from scheduler.kube.api import Raw
from scheduler.kube.launch import Capabilities, Gang, Launch, Settings, Unsupported
from scheduler.kube.names import (
    ATTEMPT,
    FIELD_MANAGER,
    GPU_JOBS,
    JOB,
    JOBS,
    NETWORK_POLICIES,
    PLACED,
    POOL,
    RAY_CLUSTERS,
    RAY_JOBS,
    RAY_SERVICES,
    SECRETS,
    SERVICES,
    Resource,
    label_value,
)

_APP = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_CONTAINER = "main"
DEFAULTS = Settings()
KUBERAY = Capabilities()


class Auth(StrEnum):
    """How Ray is told to ask for a token."""

    OPTIONS = "options"  # by KubeRay
    ENVIRONMENT = "environment"  # by us
    NONE = "none"


def resource_of(launch: Launch) -> Resource:
    """Which kind of object carries the job out."""
    spec = launch.job.spec
    if scales(launch.job):
        return RAY_SERVICES
    if spec.run.entrypoint:
        return RAY_JOBS
    if spec.run.pod_template:
        return JOBS
    return RAY_CLUSTERS


def scales(job: GpuJob) -> bool:
    """Whether a job becomes a service that takes more or fewer replicas as it runs."""
    spec = job.spec
    return spec.inference is not None and (not spec.run.entrypoint or is_app(spec.run.entrypoint))


def is_app(entrypoint: str) -> bool:
    """Whether an entrypoint is a Serve application, as ``module:app`` names one."""
    return _APP.fullmatch(entrypoint.strip()) is not None


def auth_of(resource: Resource, can: Capabilities, settings: Settings) -> Auth:
    """How the Ray of such an object is closed."""
    if not settings.token_auth:
        return Auth.NONE
    if can.auth_options:
        return Auth.OPTIONS
    return Auth.NONE if resource is RAY_SERVICES else Auth.ENVIRONMENT


def manifests(
    launch: Launch, settings: Settings = DEFAULTS, can: Capabilities = KUBERAY
) -> tuple[Raw, ...]:
    """All objects of a launch but its `token`, in the order in which to apply them.

    The last one is the workload itself; it is suspended, unless it `stops_by_deletion`.

    Raises:
        Unsupported: the cluster, or the pool, cannot run it as it is.
    """
    resource = resource_of(launch)
    _refuse(resource, can)
    if resource is JOBS:
        return _batch(launch, settings)
    closed = auth_of(resource, can, settings)
    cluster = ray_objects.cluster_spec(launch, settings, by_environment=closed is Auth.ENVIRONMENT)
    if closed is Auth.OPTIONS:
        cluster["authOptions"] = {"mode": "token"}
    spec = _RAY_SPECS[resource.kind](launch, settings, can, cluster, closed)
    return (_network_policy(launch, settings), _object(launch, resource, spec))


def token(launch: Launch, secret: str) -> Raw:
    """The Secret with Ray's token, where `auth_of` says ``ENVIRONMENT``. It is created once, and
    the API server lets nobody change it: pods of one Ray must all have the same."""
    return {
        **_head(launch, SECRETS, ray_objects.token_name(launch)),
        "type": "Opaque",
        "immutable": True,
        "stringData": {ray_objects.TOKEN_KEY: secret},
    }


def stops_by_deletion(resource: Resource) -> bool:
    """Whether a workload cannot be suspended: made, it runs, and deleted, it stops."""
    return resource is RAY_SERVICES


def suspended(*, stop: bool) -> Raw:
    """The merge patch that stops a workload of ours, or lets it run."""
    return {"spec": {"suspend": stop}}


def scaled(
    cluster: Raw, service: Raw, workers: Sequence[Raw], places: Mapping[str, int]
) -> list[Raw]:
    """The JSON patch that gives a RayCluster the replicas of ``service``, on its nodes alone.

    ``cluster`` is what KubeRay has made of the RayService, ``workers`` are its pods, ``places`` the
    replicas that each node is to have. KubeRay holds the two against each other by a hash without
    ``replicas``, ``minReplicas``, ``maxReplicas`` and ``workersToDelete``, which its autoscaler
    changes on the RayCluster: a change of these on the RayService reaches no Ray that is there. A
    worker's template is read when a pod is made, and none that runs is made anew for it. Pods to
    end are named: those on nodes that are given back, and those that wait for a node, as they wait
    for one of those of before. It is refused where somebody else has changed the spec since.
    """
    wanted = {
        each["groupName"]: each for each in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    }
    groups = [
        ray_objects.scaled_group(group, wanted[group["groupName"]], workers, places)
        if group["groupName"] in wanted
        else group
        for group in cluster["spec"]["workerGroupSpecs"]
    ]
    note = f"/metadata/annotations/{PLACED.replace('/', '~1')}"
    generation = cluster["metadata"]["generation"]
    return [
        {"op": "test", "path": "/metadata/generation", "value": generation},
        {"op": "add", "path": note, "value": service["metadata"]["annotations"][PLACED]},
        {"op": "add", "path": "/spec/workerGroupSpecs", "value": groups},
    ]


def _refuse(resource: Resource, can: Capabilities) -> None:
    if resource in (RAY_JOBS, RAY_SERVICES, RAY_CLUSTERS) and not can.ray:
        raise Unsupported(
            "spec.run: found work for Ray, and the cluster has no KubeRay; "
            "allowed: podTemplate without entrypoint"
        )


# -- what all have in common -----------------------------------------------------------------------


def _head(launch: Launch, resource: Resource, name: str) -> Raw:
    made: Raw = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": name,
            "namespace": launch.namespace,
            "labels": pods.labels(launch),
        },
    }
    if launch.uid:
        made["metadata"]["ownerReferences"] = [
            {
                "apiVersion": GPU_JOBS.api_version,
                "kind": GPU_JOBS.kind,
                "name": launch.job.metadata.name,
                "uid": launch.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
    return made


def _object(launch: Launch, resource: Resource, spec: Raw) -> Raw:
    made = _head(launch, resource, launch.name)
    made["metadata"]["annotations"] = {ATTEMPT: str(launch.attempt)}
    return {**made, "spec": spec}


def _network_policy(launch: Launch, settings: Settings) -> Raw:
    """Who reaches the job's pods: they themselves, KubeRay and Flopwise, and of a service all."""
    mine = {"podSelector": {"matchLabels": {JOB: pods.labels(launch)[JOB]}}}
    where: Raw = {}
    if settings.operator_namespace:
        where = {"matchLabels": {"kubernetes.io/metadata.name": settings.operator_namespace}}
    operators = [
        _from("kuberay-operator", {}),
        _from(FIELD_MANAGER, where),
    ]
    ingress: list[Raw] = [
        {"from": [mine]},
        {"from": operators, "ports": _ports(8265, 8000, 52365)},
    ]
    if launch.job.spec.inference is not None:
        ingress.append({"ports": _ports(8000)})
    return {
        **_head(launch, NETWORK_POLICIES, f"{launch.name}-ray"),
        "spec": {**mine, "policyTypes": ["Ingress"], "ingress": ingress},
    }


def _from(app: str, namespaces: Raw) -> Raw:
    return {
        "namespaceSelector": namespaces,
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": app}},
    }


def _ports(*numbers: int) -> list[Raw]:
    return [{"protocol": "TCP", "port": number} for number in numbers]


# -- Ray -------------------------------------------------------------------------------------------


def _ray_job(
    launch: Launch, settings: Settings, can: Capabilities, cluster: Raw, closed: Auth
) -> Raw:
    deadline = launch.deadline_seconds
    # No time to live, so that its GPUs are free at once: its log is the submitter's. What is empty
    # is left out: KubeRay drops it where it writes the object, and to apply again was a change.
    spec: Raw = {
        "entrypoint": launch.job.spec.run.entrypoint,
        "metadata": {"flopwise-job": launch.job.metadata.name, "attempt": str(launch.attempt)},
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": ray_objects.submitter(
            launch, settings, by_environment=closed is Auth.ENVIRONMENT
        ),
        "suspend": True,
        "shutdownAfterJobFinishes": True,  # KubeRay suspends no other
        "backoffLimit": settings.back_off_limit,
        "rayClusterSpec": cluster,
    }
    if launch.job.spec.run.runtime_env:
        spec["runtimeEnvYAML"] = ray_objects.runtime_env(launch)
    if deadline is not None:
        spec["activeDeadlineSeconds"] = deadline
    if can.pre_running_deadline:
        spec["preRunningDeadlineSeconds"] = settings.pre_running_seconds
    return spec


def _ray_service(
    launch: Launch, settings: Settings, can: Capabilities, cluster: Raw, closed: Auth
) -> Raw:
    del settings, can, closed
    return {
        "serveConfigV2": ray_objects.serve_config(launch, is_app),
        # A second cluster beside the first, as an upgrade would have it, has no nodes to run on.
        "upgradeStrategy": {"type": "None"},
        "rayClusterConfig": cluster,
    }


def _ray_cluster(
    launch: Launch, settings: Settings, can: Capabilities, cluster: Raw, closed: Auth
) -> Raw:
    del launch, settings, can, closed
    return {**cluster, "suspend": True}


_RAY_SPECS = {
    RAY_JOBS.kind: _ray_job,
    RAY_SERVICES.kind: _ray_service,
    RAY_CLUSTERS.kind: _ray_cluster,
}


# -- without Ray -----------------------------------------------------------------------------------


def _batch(launch: Launch, settings: Settings) -> tuple[Raw, ...]:
    (gang,) = launch.gangs
    job = _object(launch, JOBS, {**_job_spec(launch, settings, gang), "suspend": True})
    job["spec"]["ttlSecondsAfterFinished"] = settings.ttl_seconds
    if gang.count == 1:
        return (job,)
    job["spec"]["template"]["spec"].setdefault("subdomain", launch.name)
    return (_meeting_point(launch), job)


def _job_spec(launch: Launch, settings: Settings, gang: Gang) -> Raw:
    spec: Raw = {
        "completionMode": "Indexed",
        "completions": gang.count,
        "parallelism": gang.count,
        "backoffLimit": settings.back_off_limit,
        "podReplacementPolicy": "Failed",  # never two pods on the GPUs of one
        "template": _template(launch, settings, gang),
    }
    if spec["template"]["spec"]["restartPolicy"] == "Never":  # as Kubernetes asks it for policies
        on = [{"type": "DisruptionTarget", "status": "True"}]
        spec["podFailurePolicy"] = {"rules": [{"action": "Ignore", "onPodConditions": on}]}
    if launch.deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = launch.deadline_seconds
    return spec


def _meeting_point(launch: Launch) -> Raw:
    """The headless Service by which the pods of a gang find one another: ``<name>-0.<name>``."""
    return {
        **_head(launch, SERVICES, launch.name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": launch.name},
        },
    }


def _template(launch: Launch, settings: Settings, gang: Gang) -> Raw:
    """The user's pod template with what the plan decides put onto its main container."""
    stated = launch.job.spec.run.pod_template
    image = launch.job.spec.run.image
    ours: Raw = {
        "metadata": {"labels": {}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": pods.grace_seconds(launch, settings),
            "volumes": list(pods.VOLUMES),
        },
    }
    made = pods.merged(ours, stated, _CONTAINER)
    containers = made["spec"].get("containers") or []
    if not containers:
        raise Unsupported(
            "spec.run.podTemplate.spec.containers: found none, allowed: one or more "
            "(the program runs in the one called main, else in the first)"
        )
    at = next((i for i, each in enumerate(containers) if each.get("name") == _CONTAINER), 0)
    containers[at] = _program(launch, settings, gang, containers[at], image)
    made["metadata"]["labels"] |= _pod_labels(launch, gang)
    made["spec"] = pods.on_nodes(made["spec"], gang)
    return made


def _program(
    launch: Launch, settings: Settings, gang: Gang, container: Mapping[str, object], image: str
) -> Raw:
    ours: Raw = {
        "env": [*pods.environment(launch, settings), *_rendezvous(launch, gang)],
        "volumeMounts": list(pods.MOUNTS),
    }
    if image:
        ours["image"] = image
    if pods.save_seconds(launch):
        ours["lifecycle"] = {"preStop": {"exec": {"command": pods.drain_command(launch)}}}
    made = pods.over(ours, container)
    gpus = pods.resources(launch, gang)
    made["resources"] = pods.over(made.get("resources") or {}, gpus)
    return made


def _rendezvous(launch: Launch, gang: Gang) -> Sequence[Raw]:
    """How the pods of a gang find the first of them, as ``torchrun`` asks for it."""
    if gang.count == 1:
        return ()
    return (
        {"name": "MASTER_ADDR", "value": f"{launch.name}-0.{launch.name}"},
        {"name": "WORLD_SIZE", "value": str(gang.count)},
    )


def _pod_labels(launch: Launch, gang: Gang) -> dict[str, str]:
    return {**pods.labels(launch), POOL: label_value(gang.pool)}
