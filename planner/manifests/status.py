"""What the operator says of an object, as types: the ``status`` of pools, queues and jobs.

Never read from files; the custom resources have their schema of it from here, as they have that
of ``spec`` from `planner.manifests.schema`. Conditions are Kubernetes' own (``metav1.Condition``);
they stand in a fixed order, what ends a job first: so the first that is true says in one word how
it is.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, Strict, StringConstraints

from planner.manifests.schema import (
    Count,
    Instant,
    Name,
    Part,
    Quantity,
)

Generation = Annotated[int, Strict(), Field(ge=0)]
ConditionType = Annotated[
    str, Strict(), StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=316)
]
Reason = Annotated[
    str,
    Strict(),
    StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024),
]
NodeName = Annotated[str, Strict(), StringConstraints(max_length=253)]
UsedByAccelerator = Annotated[
    dict[Annotated[str, Strict(), StringConstraints(max_length=100)], Quantity],
    Field(max_length=1000),
]
ShortText = Annotated[str, Strict(), StringConstraints(max_length=253)]


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class JobCondition(StrEnum):
    """The conditions of a job, in the order in which its status lists them."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    PREEMPTED = "Preempted"
    RUNNING = "Running"
    LAUNCHED = "Launched"
    PLANNED = "Planned"
    IDLE_WORKLOAD = "IdleWorkload"
    TOKEN_REFUSED = "TokenRefused"  # noqa: S105  # by its Ray


class Condition(Part):
    """One thing that holds or does not, since when and why."""

    type: ConditionType = Field(description="What it is about.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: Reason = Field(description="Why, as one word for programs.")
    message: Annotated[str, Strict(), StringConstraints(max_length=32768)] = Field(
        description="Why, for people."
    )
    last_transition_time: Instant = Field(description="When its status changed last.")
    observed_generation: Generation = Field(
        default=0, description="The metadata.generation that it is about."
    )


Conditions = Annotated[tuple[Condition, ...], Field(max_length=16)]


class ExpectedStart(Part):
    """When a job is expected to start, and how sure that is."""

    at: Instant = Field(description="The likeliest time.")
    earliest: Instant | None = Field(default=None, description="Hardly before this.")
    latest: Instant | None = Field(default=None, description="Hardly after this.")


class PlannedSegment(Part):
    """One stretch of a job: a pool, its nodes, from when to when."""

    pool: Name = Field(description="The GpuPool.")
    nodes: Annotated[tuple[NodeName, ...], Field(max_length=10_000)] = Field(
        default=(), description="Nodes by name."
    )
    gpus: Quantity = Field(description="GPUs; below 1 for a share of one.")
    start: Instant = Field(description="When it starts.")
    end: Instant = Field(description="When it ends.")


class JobPlan(PlannedSegment):
    """Where and when a job runs, and what that costs: its first stretch, and all of them."""

    segments: Annotated[tuple[PlannedSegment, ...], Field(max_length=100)] = Field(
        default=(), description="All stretches, where there are several."
    )
    cost_usd: Quantity | None = Field(default=None, description="Money that the decision changes.")
    usd_per_pflop: Quantity | None = Field(default=None, description="Money per useful PFLOP.")
    expected_start: ExpectedStart | None = Field(
        default=None, description="When it starts, with its interval."
    )
    replicas: Count | None = Field(
        default=None, description="Of a service: how many it is to have now, by its demand."
    )
    ready_replicas: Count | None = Field(default=None, description="How many of them are ready.")
    decision: ShortText = Field(default="", description="Id of the decision, as the log has it.")


class Launched(Part):
    """The workload that carries a job."""

    kind: ShortText = Field(description="RayJob, RayService, RayCluster or Job.")
    name: ShortText = Field(description="Its name, in the job's namespace.")
    attempt: Count = Field(default=0, description="How often the job was started, this included.")


class Run(Part):
    """A stretch in which a job held its GPUs, as the operator saw it: what its bill is made of."""

    attempt: Count = Field(description="Which start of the job it was.")
    pool: Name = Field(description="The GpuPool.")
    nodes: Annotated[tuple[NodeName, ...], Field(max_length=1000)] = Field(
        default=(), description="Nodes by name."
    )
    gpus: Quantity = Field(description="GPUs; below 1 for a share of one.")
    start: Instant = Field(description="When they were given to it.")
    end: Instant | None = Field(default=None, description="When it let go of them; none: not yet.")
    usd_per_hour: Quantity = Field(description="Money that holding them costs, by the hour.")
    full_usd_per_hour: Quantity = Field(
        default=0.0, description="The same with what is paid already: owned and reserved hardware."
    )


class GpuJobStatus(Part):
    """How a job is."""

    observed_generation: Generation = Field(
        default=0, description="The metadata.generation that was seen last."
    )
    conditions: Conditions = Field(
        default=(),
        description="Succeeded, Failed, Preempted, Running, Launched, Planned, IdleWorkload and "
        "TokenRefused, in this order.",
    )
    plan: JobPlan | None = Field(default=None, description="Where and when it runs.")
    launched: Launched | None = Field(default=None, description="What carries it.")
    runs: Annotated[tuple[Run, ...], Field(max_length=1000)] = Field(
        default=(), description="What it held and when, in order: its bill."
    )
    record: Annotated[str, Strict(), StringConstraints(max_length=1_000_000)] = Field(
        default="", description="What the operator is to remember of it; its form may change."
    )


Signed = Annotated[float, Strict()]


class ObservedSide(Part):
    """A queue in one of two worlds: what the cluster does, and what would be done."""

    jobs: Count = Field(default=0, description="Jobs that hold GPUs now.")
    gpus: Quantity = Field(default=0.0, description="GPUs that they hold.")
    usd_per_hour: Quantity = Field(default=0.0, description="Money that they cost by the hour.")
    usd: Quantity = Field(default=0.0, description="Money since it is observed.")
    ended: Count = Field(default=0, description="Jobs that ended well since then.")


class Observed(Part):
    """What an operator that only observes has seen of a queue, and what it would have done."""

    since: Instant = Field(description="Since when it is observed.")
    until: Instant = Field(description="When this was written.")
    runs: ObservedSide = Field(description="What the cluster does.")
    would: ObservedSide = Field(description="What would be done.")
    compared: Count = Field(default=0, description="Jobs that began since and ended well in both.")
    saved_usd: Signed = Field(default=0.0, description="Over these; below 0: it would cost more.")
    sooner_hours: Signed = Field(default=0.0, description="That these would have started, in all.")


class GpuQueueStatus(Part):
    """How a queue is."""

    observed_generation: Generation = Field(
        default=0, description="The metadata.generation that was seen last."
    )
    conditions: Conditions = Field(default=(), description="Ready, and Observed where it is.")
    waiting_jobs: Count = Field(default=0, description="Jobs that wait, in queues below it too.")
    running_jobs: Count = Field(default=0, description="Jobs that hold GPUs, below it too.")
    used: UsedByAccelerator = Field(
        default={}, description="GPUs in use, by accelerator, below it too."
    )
    observed: Observed | None = Field(
        default=None, description="Only observing: this queue alone, in both worlds."
    )


class GpuPoolStatus(Part):
    """How a pool is."""

    observed_generation: Generation = Field(
        default=0, description="The metadata.generation that was seen last."
    )
    conditions: Conditions = Field(default=(), description="Ready.")
    nodes: Count = Field(default=0, description="Nodes that are ready.")
    gpus: Quantity = Field(default=0.0, description="Their GPUs, less what others use.")
    free_gpus: Quantity = Field(default=0.0, description="Of these, what nothing uses.")


STATUSES: dict[str, type[GpuPoolStatus] | type[GpuQueueStatus] | type[GpuJobStatus]] = {
    "GpuPool": GpuPoolStatus,
    "GpuQueue": GpuQueueStatus,
    "GpuJob": GpuJobStatus,
}
