"""What things are called in a cluster: kinds, labels, annotations, and the names of objects."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import quote

FIELD_MANAGER = "flopwise"
GROUP = "flopwise.dev"

# Labels that people set.
QUEUE = "flopwise.dev/queue"
TEAM = "flopwise.dev/team"
PROJECT = "flopwise.dev/project"
# Labels that we set on what we make, and on its pods.
JOB = "flopwise.dev/job"
POOL = "flopwise.dev/pool"
# Annotations that we set.
ATTEMPT = "flopwise.dev/attempt"
DRAIN = "flopwise.dev/drain"  # until when a workload has time to save, RFC 3339
RECORD = "flopwise.dev/record"  # what must outlive an operator of a launch, JSON
IDLE = "flopwise.dev/idle"  # why an adopted workload was stopped; it goes on once this is gone
PLACED = "flopwise.dev/placed"  # a service's replicas on each node, JSON
PINNED = "flopwise.dev/pinned"  # what an adopted workload said before it was pinned, JSON
# Of others.
RAY_CLUSTER = "ray.io/cluster"  # the label of its pods
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
HOSTNAME = "kubernetes.io/hostname"
GPU = "nvidia.com/gpu"
GPU_SHARED = "nvidia.com/gpu.shared"
MIG_PREFIX = "nvidia.com/mig-"
GPU_PRODUCT = "nvidia.com/gpu.product"
GPU_COUNT = "nvidia.com/gpu.count"
GPU_REPLICAS = "nvidia.com/gpu.replicas"
DRA_DRIVER = "gpu.nvidia.com"

RAYJOB_NAME_CHARACTERS = 47  # of RayJob and RayService: KubeRay appends to it
LABEL_CHARACTERS = 63
_HASH_CHARACTERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A kind of object, and where the API server has it."""

    group: str = ""  # empty: the core group
    version: str = "v1"
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As manifests write it: ``batch/v1``, or ``v1`` of the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of one object, of a namespace's, or of all.

        >>> JOBS.path("ml", "train", "status")
        '/apis/batch/v1/namespaces/ml/jobs/train/status'
        >>> NODES.path()
        '/api/v1/nodes'
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        steps = [quote(name, safe=""), *subresource.split("/")] if name else []
        return "/".join([f"{root}{inside}/{self.plural}", *filter(None, steps)])


def _cluster(plural: str, kind: str, group: str = "", version: str = "v1") -> Resource:
    return Resource(plural=plural, kind=kind, group=group, version=version, namespaced=False)


def _of(group: str, plural: str, kind: str, version: str = "v1") -> Resource:
    return Resource(plural=plural, kind=kind, group=group, version=version)


NODES = _cluster("nodes", "Node")
NAMESPACES = _cluster("namespaces", "Namespace")
PODS = _of("", "pods", "Pod")
SECRETS = _of("", "secrets", "Secret")
SERVICES = _of("", "services", "Service")
EVENTS = _of("events.k8s.io", "events", "Event")
JOBS = _of("batch", "jobs", "Job")
NETWORK_POLICIES = _of("networking.k8s.io", "networkpolicies", "NetworkPolicy")
LEASES = _of("coordination.k8s.io", "leases", "Lease")
PRIORITY_CLASSES = _cluster("priorityclasses", "PriorityClass", "scheduling.k8s.io")
RESOURCE_SLICES = _cluster("resourceslices", "ResourceSlice", "resource.k8s.io")
RESOURCE_CLAIMS = _of("resource.k8s.io", "resourceclaims", "ResourceClaim")
CRDS = _cluster("customresourcedefinitions", "CustomResourceDefinition", "apiextensions.k8s.io")
ACCESS_REVIEWS = _cluster(
    "selfsubjectaccessreviews", "SelfSubjectAccessReview", "authorization.k8s.io"
)
GPU_POOLS = _cluster("gpupools", "GpuPool", GROUP, "v1alpha1")
GPU_QUEUES = _cluster("gpuqueues", "GpuQueue", GROUP, "v1alpha1")
GPU_JOBS = _of(GROUP, "gpujobs", "GpuJob", "v1alpha1")
RAY_JOBS = _of("ray.io", "rayjobs", "RayJob")
RAY_SERVICES = _of("ray.io", "rayservices", "RayService")
RAY_CLUSTERS = _of("ray.io", "rayclusters", "RayCluster")
JOB_SETS = _of("jobset.x-k8s.io", "jobsets", "JobSet", "v1alpha2")

RESOURCES = {
    (each.api_version, each.kind): each
    for each in (
        *(NODES, NAMESPACES, PODS, SECRETS, SERVICES, EVENTS, JOBS, NETWORK_POLICIES, LEASES),
        *(PRIORITY_CLASSES, RESOURCE_SLICES, RESOURCE_CLAIMS, CRDS, ACCESS_REVIEWS),
        *(GPU_POOLS, GPU_QUEUES, GPU_JOBS, RAY_JOBS, RAY_SERVICES, RAY_CLUSTERS, JOB_SETS),
    )
}


def child_name(name: str, characters: int = RAYJOB_NAME_CHARACTERS) -> str:
    """A DNS-1035 label for what carries out the job ``name``: the name itself where it is one.

    A name with a dot, with a digit first, or longer than ``characters`` is made to fit, and ends
    in a hash of the whole, so that two jobs never share one.

    >>> child_name("llama-8b-sft")
    'llama-8b-sft'
    >>> child_name("8b.sft")
    'j-8b-sft-001e9536'
    """
    if len(name) <= characters and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARACTERS]
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    fit = plain if plain[:1].isalpha() else f"j-{plain}"
    return f"{fit[: characters - _HASH_CHARACTERS - 1].rstrip('-')}-{mark}"


def label_value(text: str, characters: int = LABEL_CHARACTERS) -> str:
    """``text`` where it is a label's value; else its start and a hash of the whole.

    Of at most so many characters.
    """
    if len(text) <= characters and re.fullmatch(r"([A-Za-z0-9]([-\w.]*[A-Za-z0-9])?)?", text):
        return text
    mark = hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]
    fit = re.sub(r"[^-A-Za-z0-9.]", "-", text)[: characters - _HASH_CHARACTERS - 1]
    return f"{fit.strip('-.') or 'x'}-{mark}"
