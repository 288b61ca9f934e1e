"""The rules of each manifest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from planner.manifests import wording
from planner.manifests.schema import (
    KINDS,
    Availability,
    Checkpoint,
    GpuJobSpec,
    GpuPoolSpec,
    GpuQueueSpec,
    InferenceSpec,
    PlacementSpec,
    RunSpec,
    Site,
    TaskSpec,
    Topology,
    TrainingSpec,
)

POOL: dict[str, Any] = {"accelerator": "l4", "gpusPerNode": 8, "nodes": 2}
SERVICE: dict[str, Any] = {"model": "llama-3.1-8b", "promptTokens": 512, "outputTokens": 64}
TASK: dict[str, Any] = {"hours": {"l4": 1}}
TRAINING: dict[str, Any] = {"model": "llama-3.1-8b", "tokens": 1e9}


def faults(model: type[BaseModel], fields: dict[str, Any]) -> list[str]:
    """What the fields are refused for, by path."""
    try:
        model.model_validate(fields, by_alias=True, by_name=False)
    except ValidationError as error:
        return [f"{f.path}: {f.message}" for f in wording.faults(model, error, place="")]
    return []


REFUSED: dict[str, tuple[type[BaseModel], dict[str, Any], str]] = {
    "a service without a demand": (
        InferenceSpec,
        SERVICE,
        (
            ": found none of them, allowed: exactly one of requestsPerSecond, "
            "hourlyRequestsPerSecond, requestTrace"
        ),
    ),
    "a service with two demands": (
        InferenceSpec,
        SERVICE | {"requestsPerSecond": 1, "requestTrace": "a.csv"},
        (
            ": found requestsPerSecond and requestTrace, allowed: exactly one of "
            "requestsPerSecond, hourlyRequestsPerSecond, requestTrace"
        ),
    ),
    "a day of 23 hours": (
        InferenceSpec,
        SERVICE | {"hourlyRequestsPerSecond": [1] * 23},
        "hourlyRequestsPerSecond: found 23 numbers, allowed: 24, one an hour",
    ),
    "a negative hour": (
        InferenceSpec,
        SERVICE | {"hourlyRequestsPerSecond": [1] * 23 + [-1]},
        "hourlyRequestsPerSecond[23]: found -1, allowed: 0 or more",
    ),
    "a percentile above all requests": (
        InferenceSpec,
        SERVICE | {"requestsPerSecond": 1, "objective": {"percentile": 101}},
        "objective.percentile: found 101, allowed: 100 or less",
    ),
    "a model without its tokens": (
        TrainingSpec,
        {"model": "llama-3.1-8b"},
        "tokens: found nothing, allowed: a number above 0 (a model needs its tokens)",
    ),
    "an elastic range that shrinks": (
        TrainingSpec,
        TRAINING | {"gpus": 8, "maxGpus": 4},
        "maxGpus: found 4, allowed: 0, or 8 (gpus) or more",
    ),
    "an elastic gang that shrinks": (
        TaskSpec,
        TASK | {"replicas": 4, "maxReplicas": 2},
        "maxReplicas: found 2, allowed: 0, or 4 (replicas) or more",
    ),
    "more than twice the work of twice the replicas": (
        TaskSpec,
        TASK | {"doublingEfficiency": 1.1},
        "doublingEfficiency: found 1.1, allowed: 1 or less",
    ),
    "no GPU": (TaskSpec, TASK | {"gpus": 0}, "gpus: found 0, allowed: 1 or more"),
    "more than all of a GPU": (
        TaskSpec,
        TASK | {"gpuFraction": 1.5},
        "gpuFraction: found 1.5, allowed: 1 or less",
    ),
    "a share of several GPUs": (
        TaskSpec,
        TASK | {"gpus": 2, "gpuFraction": 0.5},
        (
            ": found more than one size of a replica, allowed: one of gpus above 1, gpuFraction, "
            "migProfile"
        ),
    ),
    "a MIG profile that is none": (
        TaskSpec,
        TASK | {"migProfile": "half"},
        'migProfile: found "half", allowed: a MIG profile such as 3g.40gb',
    ),
    "a task that runs nowhere": (
        TaskSpec,
        {"hours": {}},
        "hours: found a mapping, allowed: at least 1 entry",
    ),
    "a task that takes no time": (
        TaskSpec,
        {"hours": {"l4": 0}},
        "hours.l4: found 0, allowed: a number above 0",
    ),
    "domains that do not nest": (
        Topology,
        {"nodesPerDomain": [4, 6]},
        "nodesPerDomain: found 6 after 4, allowed: 0, or a multiple of the number before it",
    ),
    "more domains than levels": (
        GpuPoolSpec,
        {
            "accelerator": "h100",
            "gpusPerNode": 8,
            "topologyLevels": ["rack"],
            "topology": {"nodesPerDomain": [4, 16]},
        },
        "topology: found 2 nodesPerDomain, allowed: 1, one for each topologyLevel",
    ),
    "a latency from nowhere": (
        PlacementSpec,
        {"maxLatencyMs": 20},
        "maxLatencyMs: found 20.0 without spec.placement.near, allowed: 0, or a region in near",
    ),
    "half a place": (
        Site,
        {"latitude": 48.86},
        ": found one of latitude and longitude, allowed: both of latitude and longitude, or none",
    ),
    "a place off the Earth": (
        Site,
        {"latitude": 95.0, "longitude": 2.35},
        "latitude: found 95.0, allowed: 90 or less",
    ),
    "a jurisdiction by its full name": (
        PlacementSpec,
        {"jurisdictions": ["Norway"]},
        'jurisdictions[0]: found "Norway", allowed: two capital letters, such as US or EU',
    ),
    "half a second": (
        Checkpoint,
        {"intervalSeconds": 0.5},
        "intervalSeconds: found 0.5, allowed: a whole number",
    ),
    "a number that JSON has not": (
        RunSpec,
        {"runtimeEnv": {"env_vars": {"LR": float("nan")}}},
        "runtimeEnv: found a mapping, allowed: what JSON can say, and finite numbers",
    ),
    "a guarantee above the limit": (
        GpuQueueSpec,
        {"guaranteed": {"l4": 9}, "limit": {"l4": 8}},
        "limit: found 8 l4, allowed: its guaranteed 9 or more",
    ),
    "a weight of nothing": (
        GpuQueueSpec,
        {"weight": 0},
        "weight: found 0, allowed: a number above 0",
    ),
    "two windows at once": (
        GpuPoolSpec,
        POOL
        | {
            "availability": [
                {"from": "2026-12-03", "to": "2026-12-05", "nodes": 1},
                {"from": "2026-12-01", "to": "2026-12-04", "nodes": 1},
            ]
        },
        (
            "availability: found two windows at 2026-12-03T00:00:00Z, allowed: windows that do not "
            "overlap"
        ),
    ),
    "owned hardware of an unknown price": (
        GpuPoolSpec,
        POOL | {"price": {"purchase": "owned"}},
        ": found neither, allowed: owned or price.usdPerGpuHour, as purchase is owned",
    ),
    "owned hardware of two prices": (
        GpuPoolSpec,
        POOL
        | {"price": {"purchase": "owned", "usdPerGpuHour": 1}, "owned": {"capexUsdPerNode": 1}},
        ": found both, allowed: owned or price.usdPerGpuHour, as purchase is owned",
    ),
    "a purchase price of rented hardware": (
        GpuPoolSpec,
        POOL | {"price": {"purchase": "spot"}, "owned": {"capexUsdPerNode": 1}},
        "owned: found it beside price.purchase spot, allowed: it where purchase is owned",
    ),
    "more out of the wall than into the machines": (
        GpuPoolSpec,
        POOL | {"power": {"pue": 0.9}},
        "power.pue: found 0.9, allowed: 1 or more",
    ),
    "a priority beyond 32 bits": (
        GpuJobSpec,
        {"task": TASK, "priority": 2**31},
        "priority: found 2147483648, allowed: below 2147483648",
    ),
    "a deadline that is the start": (
        GpuJobSpec,
        {"task": TASK, "earliestStart": "2026-12-01", "deadline": "2026-12-01"},
        (
            "deadline: found 2026-12-01T00:00:00Z, allowed: later than earliestStart, "
            "2026-12-01T00:00:00Z"
        ),
    ),
    "seconds since 1970": (
        GpuJobSpec,
        {"task": TASK, "due": 1_764_547_200},
        "due: found 1764547200, allowed: a time such as 2026-12-01T00:00:00Z",
    ),
    "an unknown field of a list's entry": (
        GpuPoolSpec,
        POOL | {"availability": [{"from": "2026-12-03", "to": "2026-12-05", "node": 1}]},
        "availability[0].node: unknown field, nearest: nodes",
    ),
}


@pytest.mark.parametrize(("model", "fields", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused_is(model: type[BaseModel], fields: dict[str, Any], expected: str) -> None:
    assert expected in faults(model, fields)


ALLOWED: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "a due time after the deadline": (
        GpuJobSpec,
        {"task": TASK, "deadline": "2026-12-01", "due": "2026-12-02"},
    ),
    "more nodes in a window than before": (
        GpuPoolSpec,
        POOL | {"availability": [{"from": "2026-12-01", "to": "2026-12-02", "nodes": 99}]},
    ),
    "a window that begins where another ends": (
        GpuPoolSpec,
        POOL
        | {
            "availability": [
                {"from": "2026-12-01", "to": "2026-12-02", "nodes": 1},
                {"from": "2026-12-02", "to": "2026-12-03", "nodes": 0},
            ]
        },
    ),
    "owned hardware at a price an hour": (
        GpuPoolSpec,
        POOL | {"price": {"purchase": "owned", "usdPerGpuHour": 1.2}},
    ),
    "owned hardware at what it cost": (GpuPoolSpec, POOL | {"owned": {"capexUsdPerNode": 9000}}),
    "a demand beside others that are not stated": (
        InferenceSpec,
        SERVICE | {"requestsPerSecond": 0, "hourlyRequestsPerSecond": [0] * 24, "requestTrace": ""},
    ),
    "a share beside the one GPU it is of": (TaskSpec, TASK | {"gpus": 1, "gpuFraction": 0.5}),
    "a whole number where a decimal is asked": (TaskSpec, TASK | {"cpus": 8}),
    "FLOPs with tokens to count by": (TrainingSpec, {"flops": 1e21, "tokens": 1e9}),
}


@pytest.mark.parametrize(("model", "fields"), ALLOWED.values(), ids=ALLOWED)
def test_allowed_is(model: type[BaseModel], fields: dict[str, Any]) -> None:
    assert faults(model, fields) == []


def test_faults_of_several_rules_are_told_at_once() -> None:
    spec = {
        "training": {"model": "llama-3.1-8b", "gpus": 8, "maxGpus": 4},
        "earliestStart": "2026-12-02",
        "deadline": "2026-12-01",
        "queue": "Research",
    }
    assert [line.split(":")[0] for line in faults(GpuJobSpec, spec)] == [
        "queue",
        "deadline",
        "training.tokens",
        "training.maxGpus",
    ]


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TaskSpec(hours={"l4": 1.0}).gpus = 2


def test_a_service_carries_the_rates_of_its_trace() -> None:
    fields = SERVICE | {"requestTrace": "a.csv"}
    service = InferenceSpec.model_validate(fields)
    assert service.trace_requests_per_second == ()
    traced = service.with_trace((1.5, 2.0))
    assert traced.trace_requests_per_second == (1.5, 2.0)
    assert service.trace_requests_per_second == ()


def test_times_are_kept_in_utc() -> None:
    window = Availability.model_validate(
        {"from": "2026-12-01T01:00:00+01:00", "to": "2026-12-02", "nodes": 1}
    )
    assert (window.from_.tzinfo, window.to) == (UTC, datetime(2026, 12, 2, tzinfo=UTC))


def parts() -> list[type[BaseModel]]:
    """Every model that a manifest is made of."""
    found = list[type[BaseModel]](KINDS.values())
    for model in found:
        inner = (wording._part(f.annotation) for f in model.model_fields.values())
        found += [part for part in inner if part and part not in found]
    return found


def test_every_field_says_what_it_means() -> None:
    undocumented = [
        f"{part.__name__}.{name}"
        for part in parts()
        for name, field in part.model_fields.items()
        if not field.description and name not in ("api_version", "kind")
    ]
    assert undocumented == []


def unions(schema: Any) -> list[Any]:
    """Alternatives of several types; one type or nothing is none."""
    if isinstance(schema, list):
        return [union for each in schema for union in unions(each)]
    if not isinstance(schema, dict):
        return []
    types = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    inner = [union for each in schema.values() for union in unions(each)]
    return inner + ([types] if len(types) > 1 else [])


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_is_a_union_of_types(kind: str) -> None:
    assert unions(KINDS[kind].model_json_schema()) == []
