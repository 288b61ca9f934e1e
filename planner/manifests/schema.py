"""The manifests as types: group ``flopwise.dev``, version ``v1alpha1``.

Attributes are snake_case, the fields of a file are their camelCase. A default means *not stated*:
0 for a limit that is none, an empty text, list or mapping for any. Units stand in the names.
Accelerators and models are ids of the catalogs; an alias is resolved to its id. No field is a union
of types, so that each has a structural schema; a description becomes the field's documentation in
the cluster. Rules between fields are checked at the later field, so that one run finds every fault.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    Strict,
    StringConstraints,
    ValidationInfo,
    WrapValidator,
    field_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from cost_models.accelerators import Precision
from cost_models.architectures import Method
from cost_models.prices import Purchase
from planner.manifests.errors import found as shown

T = TypeVar("T")

API_VERSION = "flopwise.dev/v1alpha1"
DNS_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
IN_FILES_ONLY = "x-in-files-only"  # marks a field that a cluster has no use for
MIG_PROFILE = r"^[1-9]g\.[1-9][0-9]*gb(\+me(\.all)?|\+gfx|-me)?$"


class SiteKind(StrEnum):
    """What kind of place a pool stands in."""

    CLOUD = "cloud"
    ONPREM = "onprem"
    EDGE = "edge"


class RentBilling(StrEnum):
    """What a rented pool is billed by: whole nodes, or the GPUs that work."""

    NODE = "node"
    GPU = "gpu"


class Preempts(StrEnum):
    """Whose work may be preempted."""

    NEVER = "Never"
    LOWER_PRIORITY = "LowerPriority"
    ANY = "Any"


class IdleAction(StrEnum):
    """What happens to a workload that leaves its GPUs idle."""

    NEVER = "Never"
    WARN = "Warn"
    SUSPEND = "Suspend"


def rule(found: str, allowed: str, *, up: int = 0) -> PydanticCustomError:
    """A broken rule between fields; ``up``: how many levels above the field it belongs to."""
    context = {"found": found, "allowed": allowed, "up": up}
    return PydanticCustomError("rule", "found {found}, allowed: {allowed}", context)


def _exactly_one(*others: str, value: T, info: ValidationInfo) -> T:
    """``value``, where it or one of the fields ``others`` is stated. One in error is stated."""
    names = (*others, str(info.field_name))
    given = [name for name in others if info.data.get(name, name)] + list(names[-1:] * bool(value))
    if len(given) != 1:
        stated = " and ".join(map(to_camel, given)) or "none of them"
        raise rule(stated, f"exactly one of {', '.join(map(to_camel, names))}", up=1)
    return value


def _later(value: datetime, info: ValidationInfo, than: str) -> datetime:
    """``value``, where it is later than the field ``than``."""
    begin = info.data.get(than)
    if begin is not None and value <= begin:
        raise rule(iso(value), f"later than {to_camel(than.rstrip('_'))}, {iso(begin)}")
    return value


def iso(when: datetime) -> str:
    """A UTC time as manifests write it.

    >>> iso(datetime(2026, 12, 1, tzinfo=UTC))
    '2026-12-01T00:00:00Z'
    """
    return when.isoformat().replace("+00:00", "Z")


def _instant(value: object) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001  # made UTC below
    if not isinstance(value, datetime) or not 1970 <= value.year <= 9000:
        raise PydanticCustomError("instant", "a time such as 2026-12-01T00:00:00Z")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@functools.cache
def _accelerator_id(name: str) -> str:
    from cost_models.accelerators import resolve_accelerator

    return resolve_accelerator(name).id


@functools.cache
def _model_id(name: str) -> str:
    from cost_models.architectures import resolve_architecture

    return resolve_architecture(name).id


def _json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise PydanticCustomError("json", "what JSON can say, and finite numbers") from error
    return value


def _no_id_twice(value: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    read = handler(value)
    if len(read) != len(value):
        raise PydanticCustomError("twice", "each accelerator once (two of these names are one)")
    return read


Text = Annotated[str, Strict(), StringConstraints(max_length=65536)]
Name = Annotated[str, Strict(), StringConstraints(pattern=DNS_NAME, max_length=63)]
NameOrNone = Annotated[str, Strict(), StringConstraints(pattern=f"^$|{DNS_NAME}", max_length=63)]
Jurisdiction = Annotated[str, Strict(), StringConstraints(pattern=r"^[A-Z]{2}$")]
MigProfile = Annotated[str, Strict(), StringConstraints(pattern=MIG_PROFILE)]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=0, le=10_000_000)]
PositiveCount = Annotated[int, Strict(), Field(ge=1, le=10_000_000)]
Seconds = Annotated[int, Strict(), Field(ge=0, le=10**9)]
Quantity = Annotated[float, Strict(), Field(ge=0)]
PositiveQuantity = Annotated[float, Strict(), Field(gt=0, le=1e30)]
Fraction = Annotated[float, Strict(), Field(ge=0, le=1)]
Latitude = Annotated[float, Strict(), Field(ge=-90, le=90)]
Longitude = Annotated[float, Strict(), Field(ge=-180, le=180)]
Instant = Annotated[datetime, BeforeValidator(_instant)]
AcceleratorId = Annotated[
    str, Strict(), StringConstraints(max_length=100), AfterValidator(_accelerator_id)
]
ModelId = Annotated[str, Strict(), StringConstraints(max_length=100), AfterValidator(_model_id)]
CountByAccelerator = Annotated[
    dict[AcceleratorId, Count], WrapValidator(_no_id_twice), Field(max_length=1000)
]
RateByAccelerator = Annotated[
    dict[AcceleratorId, PositiveQuantity], WrapValidator(_no_id_twice), Field(max_length=1000)
]
JsonObject = Annotated[dict[Text, Any], AfterValidator(_json)]
Texts = Annotated[tuple[Text, ...], Field(max_length=10_000)]
TextByKey = Annotated[dict[Text, Text], Field(max_length=10_000)]


class Part(BaseModel):
    """What all parts of a manifest have in common: frozen, closed, finite."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        alias_generator=lambda name: to_camel(name.rstrip("_")),
        validate_by_name=True,
        validate_by_alias=True,
    )


class ClusterMetadata(Part):
    """How a cluster-scoped object is called."""

    name: Name = Field(description="Unique among objects of its kind.")
    labels: TextByKey = Field(default_factory=dict, description="Kubernetes labels.")
    annotations: TextByKey = Field(default_factory=dict, description="Kubernetes annotations.")


class Metadata(ClusterMetadata):
    """How a namespaced object is called."""

    namespace: Name = Field(default="default", description="Its Kubernetes namespace.")


class Availability(Part):
    """A stretch of time in which a pool has another number of nodes."""

    from_: Instant = Field(description="When it begins.")
    to: Instant = Field(description="When it ends; the number of nodes is spec.nodes again.")
    nodes: Count = Field(description="Nodes present in between.")

    @field_validator("to")
    @classmethod
    def _after_from(cls, value: datetime, info: ValidationInfo) -> datetime:
        return _later(value, info, "from_")


class Site(Part):
    """Where a pool stands."""

    kind: SiteKind = Field(default=SiteKind.CLOUD, description="cloud, onprem or edge.")
    provider: Text = Field(default="", description="Who runs it, as in the price catalog.")
    region: Text = Field(default="", description="Region of the provider.")
    jurisdiction: Annotated[str, Strict(), StringConstraints(pattern=r"^([A-Z]{2})?$")] = Field(
        default="", description="Whose law holds: ISO 3166 country of two letters, or EU."
    )
    latitude: Latitude | None = Field(
        default=None,
        description="Degrees, north above 0; not stated: the catalog's.",
    )
    longitude: Longitude | None = Field(
        default=None,
        validate_default=True,
        description="Degrees, east above 0; not stated: the catalog's.",
    )
    egress_usd_per_gib: Quantity | None = Field(
        default=None,
        description="Price of data that leave it; not stated: the catalog's, of the provider. "
        "Of a site of one's own: 0.",
    )

    @field_validator("longitude")
    @classmethod
    def _both(cls, value: float | None, info: ValidationInfo) -> float | None:
        if (value is None) != (info.data.get("latitude", value) is None):
            raise rule(
                "one of latitude and longitude", "both of latitude and longitude, or none", up=1
            )
        return value


class Price(Part):
    """What a pool's hours cost."""

    purchase: Purchase = Field(
        default=Purchase.ON_DEMAND, description="owned, reserved, on_demand or spot."
    )
    usd_per_gpu_hour: Quantity | None = Field(
        default=None, description="List price; not stated: the catalog's."
    )
    billing: RentBilling = Field(
        default=RentBilling.NODE,
        description="Of rented pools: node (whole nodes, launch to termination) or gpu.",
    )


class Owned(Part):
    """What owned hardware cost to buy."""

    capex_usd_per_node: Quantity = Field(description="Purchase price of a node.")
    life_years: PositiveQuantity = Field(default=5.0, description="Years it is written off over.")
    salvage_fraction: Fraction = Field(default=0.0, description="Of the price, at the end.")


class Power(Part):
    """What a pool's energy costs."""

    usd_per_kwh: Quantity = Field(default=0.0, description="Price of electricity.")
    pue: Annotated[float, Strict(), Field(ge=1)] = Field(
        default=1.0, description="Power usage effectiveness: at the meter over at the machines."
    )
    grams_co2_per_kwh: Quantity = Field(default=0.0, description="Carbon intensity.")


class Topology(Part):
    """How a pool's nodes, in their order, lie in its topology, where no cluster says it."""

    nodes_per_domain: Annotated[tuple[Count, ...], Field(max_length=100)] = Field(
        default=(),
        description="Nodes of a domain of each of topologyLevels, near to far; 0: all of them.",
    )

    @field_validator("nodes_per_domain")
    @classmethod
    def _nested(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        for near, far in pairwise(value):
            if far and (not near or far % near):
                raise rule(f"{far} after {near}", "0, or a multiple of the number before it")
        return value


class GpuPoolSpec(Part):
    """Identical nodes, in one place, at one price."""

    accelerator: AcceleratorId = Field(description="Id or alias in the accelerator catalog.")
    gpus_per_node: Annotated[int, Strict(), Field(ge=1, le=1024)] = Field(
        description="GPUs of one node."
    )
    nodes: Count | None = Field(
        default=None, description="Nodes; in a cluster not stated: counted live by nodeSelector."
    )
    node_selector: TextByKey = Field(
        default={}, description="Labels of the pool's nodes; default: the catalog's GPU product."
    )
    cpus_per_node: Quantity = Field(default=0.0, description="CPUs of one node; 0: no limit.")
    memory_gib_per_node: Quantity = Field(
        default=0.0, description="Host memory of one node; 0: no limit."
    )
    availability: Annotated[tuple[Availability, ...], Field(max_length=10_000)] = Field(
        default=(), description="Times with another number of nodes: maintenance, arrivals."
    )
    site: Site = Field(default=Site(), description="Where it stands.")
    price: Price | None = Field(default=None, description="Not stated: the catalog's.")
    owned: Owned | None = Field(
        default=None, validate_default=True, description="What owned hardware cost to buy."
    )
    startup_seconds: Seconds = Field(default=0, description="A rented node from launch to ready.")
    interruptions_per_hour: Quantity = Field(
        default=0.0, description="How often a spot node is taken away."
    )
    power: Power | None = Field(default=None, description="What its energy costs.")
    topology_levels: Texts = Field(
        default=(), description="Node labels that name its domains, near to far."
    )
    topology: Topology = Field(
        default=Topology(), description="Where its nodes lie, where no cluster says it."
    )
    mig_geometries: Annotated[
        tuple[Annotated[tuple[MigProfile, ...], Field(min_length=1, max_length=8)], ...],
        Field(max_length=1000),
    ] = Field(default=(), description="MIG geometries allowed; empty: not partitioned.")

    @field_validator("availability")
    @classmethod
    def _apart(cls, value: tuple[Availability, ...]) -> tuple[Availability, ...]:
        ordered = sorted(value, key=lambda window: window.from_)
        for one, other in pairwise(ordered):
            if other.from_ < one.to:
                raise rule(f"two windows at {iso(other.from_)}", "windows that do not overlap")
        return value

    @field_validator("topology")
    @classmethod
    def _of_its_levels(cls, value: Topology, info: ValidationInfo) -> Topology:
        levels, stated = info.data.get("topology_levels", ()), value.nodes_per_domain
        if len(stated) > len(levels):
            raise rule(
                f"{len(stated)} nodesPerDomain", f"{len(levels)}, one for each topologyLevel"
            )
        return value

    @field_validator("owned")
    @classmethod
    def _owned_or_priced(cls, value: Owned | None, info: ValidationInfo) -> Owned | None:
        price: Price | None = info.data.get("price")
        if price is None:
            return value
        if value and price.purchase is not Purchase.OWNED:
            raise rule(f"it beside price.purchase {price.purchase}", "it where purchase is owned")
        if price.purchase is Purchase.OWNED and bool(value) == (price.usd_per_gpu_hour is not None):
            both = "both" if value else "neither"
            raise rule(both, "owned or price.usdPerGpuHour, as purchase is owned", up=1)
        return value


class GpuPool(Part):
    """A pool of nodes (cluster-scoped)."""

    api_version: Literal["flopwise.dev/v1alpha1"] = Field(default="flopwise.dev/v1alpha1")
    kind: Literal["GpuPool"] = Field(default="GpuPool")
    metadata: ClusterMetadata = Field(description="How it is called.")
    spec: GpuPoolSpec = Field(description="What it is.")


class Preemption(Part):
    """Whose work a queue's jobs may push aside."""

    within_queue: Preempts = Field(
        default=Preempts.LOWER_PRIORITY, description="In the same queue: Never, LowerPriority, Any."
    )
    reclaim: Preempts = Field(
        default=Preempts.ANY, description="In queues that borrow what is guaranteed to this one."
    )


class Idle(Part):
    """What happens to workloads that leave their GPUs idle."""

    after_seconds: Seconds = Field(default=1800, description="Idle for this long.")
    action: IdleAction = Field(default=IdleAction.WARN, description="Never, Warn or Suspend.")


class GpuQueueSpec(Part):
    """Who may use how much."""

    parent: NameOrNone = Field(default="", description="The queue above; empty: a root.")
    weight: PositiveQuantity = Field(default=1.0, description="Share of what is not guaranteed.")
    guaranteed: CountByAccelerator = Field(
        default={}, description="GPUs by accelerator; unused ones are lent."
    )
    lendable: CountByAccelerator = Field(
        default={}, description="GPUs lent at most, by accelerator; not named: all."
    )
    limit: CountByAccelerator = Field(
        default={}, description="GPUs used at most, by accelerator; not named: no limit."
    )
    budget_usd_per_month: Quantity | None = Field(
        default=None, description="Money a calendar month (UTC); not stated: no limit."
    )
    preemption: Preemption = Field(default=Preemption(), description="Whom it may push aside.")
    idle: Idle = Field(default=Idle(), description="What happens to idle workloads.")

    @field_validator("limit")
    @classmethod
    def _guarantee_within(cls, value: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        for accelerator, gpus in info.data.get("guaranteed", {}).items():
            if gpus > value.get(accelerator, gpus):
                raise rule(f"{value[accelerator]} {accelerator}", f"its guaranteed {gpus} or more")
        return value


class GpuQueue(Part):
    """A queue (cluster-scoped); queues form a tree."""

    api_version: Literal["flopwise.dev/v1alpha1"] = Field(default="flopwise.dev/v1alpha1")
    kind: Literal["GpuQueue"] = Field(default="GpuQueue")
    metadata: ClusterMetadata = Field(description="How it is called.")
    spec: GpuQueueSpec = Field(default=GpuQueueSpec(), description="Who may use how much.")


class Checkpoint(Part):
    """What stopping and starting again costs a job."""

    interval_seconds: Seconds = Field(default=0, description="Between saves; 0: it never saves.")
    save_seconds: Quantity = Field(default=0.0, description="What one save takes.")
    restart_seconds: Quantity = Field(default=0.0, description="From start to work again.")
    switches: Count = Field(
        default=0, description="How often it may go on from a checkpoint on another pool or size."
    )


class Together(Part):
    """The gang inside one domain."""

    level: Text = Field(min_length=1, description="Topology level whose domain holds the gang.")
    required: Flag = Field(default=False, description="False: preferred.")


class Spread(Part):
    """Replicas apart."""

    level: Text = Field(min_length=1, description="Topology level that no two replicas share.")


class PlacementSpec(Part):
    """Where a job may run."""

    jurisdictions: Annotated[tuple[Jurisdiction, ...], Field(max_length=300)] = Field(
        default=(), description="Countries, or EU; empty: any."
    )
    accelerators: Annotated[tuple[AcceleratorId, ...], Field(max_length=1000)] = Field(
        default=(), description="Ids or aliases; empty: any that fits."
    )
    pools: Annotated[tuple[Name, ...], Field(max_length=1000)] = Field(
        default=(), description="Names of pools; empty: any."
    )
    together: Together | None = Field(default=None, description="The gang inside one domain.")
    spread: Spread | None = Field(default=None, description="Replicas apart.")
    near: Text = Field(
        default="",
        description="Where its users and its data are: provider/region, a region, or a pool.",
    )
    max_latency_ms: Quantity = Field(
        default=0.0,
        description="Round trip to `near` and back, estimated from the distance; 0: no limit.",
    )
    data_gib: Quantity = Field(
        default=0.0,
        description="Moved from `near` to each other place that it runs at, once, at the price of "
        "egress. The time it takes is not planned.",
    )

    @field_validator("max_latency_ms", "data_gib")
    @classmethod
    def _from_somewhere(cls, value: float, info: ValidationInfo) -> float:
        if value > 0 and info.data.get("near") == "":
            raise rule(f"{value} without spec.placement.near", "0, or a region in near")
        return value


class TrainingSpec(Part):
    """Train a known model, or do this many FLOPs."""

    model: ModelId | None = Field(default=None, description="Id or alias of the model catalog.")
    flops: PositiveQuantity | None = Field(
        default=None, validate_default=True, description="Useful FLOPs, instead of a model."
    )
    method: Method = Field(default=Method.FULL, description="Pretrain, Full, Lora or Qlora.")
    tokens: PositiveQuantity | None = Field(
        default=None, validate_default=True, description="Tokens trained; a model needs them."
    )
    sequence_length: PositiveCount = Field(default=8192, description="Tokens of one sequence.")
    precision: Precision = Field(default=Precision.BF16, description="Of the matrix products.")
    gpus: PositiveCount = Field(default=1, description="GPUs.")
    max_gpus: Count = Field(default=0, description="Elastic from gpus to this; 0: not elastic.")
    throughput: RateByAccelerator = Field(
        default={}, description="Measured on `gpus`: tokens per second per GPU, by accelerator."
    )

    @field_validator("flops")
    @classmethod
    def _model_or_flops(cls, value: float | None, info: ValidationInfo) -> float | None:
        return _exactly_one("model", value=value, info=info)

    @field_validator("tokens")
    @classmethod
    def _of_a_model(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is None and info.data.get("model"):
            raise rule(shown(None), "a number above 0 (a model needs its tokens)")
        return value

    @field_validator("max_gpus")
    @classmethod
    def _at_least_gpus(cls, value: int, info: ValidationInfo) -> int:
        if 0 < value < info.data.get("gpus", 0):
            raise rule(str(value), f"0, or {info.data['gpus']} (gpus) or more")
        return value


class Objective(Part):
    """The latency that requests may take; 0: none asked."""

    ttft_ms: Quantity = Field(default=0.0, description="Time to the first token.")
    tpot_ms: Quantity = Field(default=0.0, description="Time per further token.")
    percentile: Annotated[float, Strict(), Field(gt=0, le=100)] = Field(
        default=99.0, description="Of requests that hold it."
    )


class InferenceSpec(Part):
    """Serve a known model."""

    model: ModelId = Field(description="Id or alias of the model catalog.")
    precision: Precision = Field(default=Precision.BF16, description="Of the weights.")
    prompt_tokens: PositiveCount = Field(description="Of a typical request.")
    output_tokens: PositiveCount = Field(description="Of a typical request.")
    requests_per_second: Quantity = Field(default=0.0, description="The same all day.")
    hourly_requests_per_second: tuple[Quantity, ...] = Field(
        default=(), max_length=24, description="24 numbers, from midnight UTC, instead."
    )
    request_trace: Text = Field(
        default="",
        validate_default=True,
        description="A CSV instead, a row a request, its time first; in files only.",
        json_schema_extra={IN_FILES_ONLY: True},
    )
    objective: Objective = Field(default=Objective(), description="Latency asked.")
    min_replicas: Count = Field(default=1, description="Replicas at all times.")

    _trace: tuple[float, ...] = PrivateAttr(default=())

    @property
    def trace_requests_per_second(self) -> tuple[float, ...]:
        """Mean rate in each hour from the first request of ``request_trace``; empty without one."""
        return self._trace

    def with_trace(self, requests_per_second: tuple[float, ...]) -> Self:
        """The same with what its ``request_trace`` says."""
        copy = self.model_copy()
        copy._trace = requests_per_second
        return copy

    @field_validator("hourly_requests_per_second")
    @classmethod
    def _a_whole_day(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value and len(value) != 24:
            raise rule(f"{len(value)} numbers", "24, one an hour")
        return value

    @field_validator("request_trace")
    @classmethod
    def _one_demand(cls, value: str, info: ValidationInfo) -> str:
        return _exactly_one(
            "requests_per_second", "hourly_requests_per_second", value=value, info=info
        )


class TaskSpec(Part):
    """Opaque work, as trackers and traces have it."""

    replicas: PositiveCount = Field(default=1, description="The gang: all at once or none.")
    max_replicas: Count = Field(
        default=0, description="Elastic from replicas to this, by doublings; 0: not elastic."
    )
    doubling_efficiency: Annotated[float, Strict(), Field(ge=0.01, le=1)] = Field(
        default=1.0, description="e: twice the replicas do 2 e times the work in an hour."
    )
    gpus: Annotated[int, Strict(), Field(ge=1, le=1024)] = Field(
        default=1, description="Whole GPUs of a replica."
    )
    gpu_fraction: Fraction = Field(default=0.0, description="Or a share of one GPU; 0: whole.")
    mig_profile: Annotated[str, Strict(), StringConstraints(pattern=f"^$|{MIG_PROFILE}")] = Field(
        default="", validate_default=True, description="Or one MIG instance of this profile."
    )
    gpu_memory_gib: Quantity = Field(default=0.0, description="Needed on each GPU; 0: any.")
    cpus: Quantity = Field(default=0.0, description="CPUs of a replica.")
    memory_gib: Quantity = Field(default=0.0, description="Host memory of a replica.")
    hours: Annotated[RateByAccelerator, Field(min_length=1)] = Field(
        description="How long it runs as `replicas`, by accelerator; one not named cannot run it."
    )

    @field_validator("max_replicas")
    @classmethod
    def _at_least_replicas(cls, value: int, info: ValidationInfo) -> int:
        if 0 < value < info.data.get("replicas", 0):
            allowed = f"0, or {info.data['replicas']} (replicas) or more"
            raise rule(str(value), allowed)
        return value

    @field_validator("mig_profile")
    @classmethod
    def _one_share(cls, value: str, info: ValidationInfo) -> str:
        gpus, fraction = info.data.get("gpus", 1), info.data.get("gpu_fraction", 0.0)
        if (gpus > 1) + (fraction > 0) + bool(value) > 1:
            allowed = "one of gpus above 1, gpuFraction, migProfile"
            raise rule("more than one size of a replica", allowed, up=1)
        return value


class RunSpec(Part):
    """What to start."""

    image: Text = Field(default="", description="Container image.")
    entrypoint: Text = Field(default="", description="Shell command.")
    runtime_env: JsonObject = Field(default={}, description="Ray runtime environment.")
    pod_template: JsonObject = Field(default={}, description="Merged over ours.")


_NOTHING = RunSpec()  # one for all: as a default it would be copied for each job


class GpuJobSpec(Part):
    """Something to run: exactly one of training, inference, task."""

    queue: NameOrNone = Field(default="", description="Its GpuQueue; empty: none.")
    priority: Annotated[int, Strict(), Field(ge=-(2**31), lt=2**31)] = Field(
        default=0, description="A strictly higher one is placed first where both cannot be."
    )
    required: Flag = Field(default=False, description="True: no plan leaves it out.")
    earliest_start: Instant | None = Field(default=None, description="Not before.")
    deadline: Instant | None = Field(default=None, description="It ends by then: hard.")
    due: Instant | None = Field(default=None, description="It should end by then: soft.")
    lateness_usd_per_hour: Quantity = Field(default=0.0, description="Price of an hour past due.")
    unplaced_usd: Quantity | None = Field(
        default=None, description="Cost of not running it; not stated: above its dearest option."
    )
    max_cost_usd: Quantity | None = Field(default=None, description="It may cost at most.")
    depends_on: Annotated[tuple[Name, ...], Field(max_length=10_000)] = Field(
        default=(), description="Jobs of its namespace that end before it starts."
    )
    preemptible: Flag = Field(default=True, description="It may be stopped and started again.")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="What a stop costs.")
    placement: PlacementSpec = Field(default=PlacementSpec(), description="Where it may run.")
    training: TrainingSpec | None = Field(default=None, description="Train a model.")
    inference: InferenceSpec | None = Field(default=None, description="Serve a model.")
    task: TaskSpec | None = Field(
        default=None, validate_default=True, description="Opaque work, with its hours."
    )
    run: RunSpec = Field(default_factory=lambda: _NOTHING, description="What to start.")

    @field_validator("deadline")
    @classmethod
    def _after_start(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        return value and _later(value, info, "earliest_start")

    @field_validator("task")
    @classmethod
    def _one_kind(cls, value: TaskSpec | None, info: ValidationInfo) -> TaskSpec | None:
        return _exactly_one("training", "inference", value=value, info=info)


class GpuJob(Part):
    """A job (namespaced)."""

    api_version: Literal["flopwise.dev/v1alpha1"] = Field(default="flopwise.dev/v1alpha1")
    kind: Literal["GpuJob"] = Field(default="GpuJob")
    metadata: Metadata = Field(description="How it is called.")
    spec: GpuJobSpec = Field(description="What it is.")


Manifest: TypeAlias = GpuPool | GpuQueue | GpuJob
KINDS: dict[str, type[GpuPool] | type[GpuQueue] | type[GpuJob]] = {
    "GpuPool": GpuPool,
    "GpuQueue": GpuQueue,
    "GpuJob": GpuJob,
}
