"""What ``flopwise telemetry usage`` says by owner, and of GPUs that are held and do nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import typer

from cost_models.accelerators import Accelerator, resolve_accelerator
from cost_models.names import UnknownName
from cost_models.prices import find_offering
from telemetry import samples, store
from telemetry.idle import Idle, IdleGpu, Rule, idle
from telemetry.usage import By, Usage, usage_by
from telemetry.uses import NOBODY, Owner, Use

JOULES_PER_KWH = 3.6e6
SQLITE = b"SQLite format 3\x00"


def uses_of(file: Path) -> Iterator[Use]:
    """Of a store of a node, or a file of samples, of which nobody is known to be the owner.

    Raises ``SamplesError``, ``StoreError``, OSError.
    """
    with file.open("rb") as opened:
        is_store = opened.read(len(SQLITE)) == SQLITE
    if is_store:
        return store.read(file)
    return (Use(sample=sample) for sample in samples.read(file))


def keys_of(by: str) -> tuple[By, ...]:
    """The option ``--by``."""
    names = [name.strip() for name in by.split(",") if name.strip()]
    if unknown := [name for name in names if name not in set(By)]:
        allowed = ", ".join(By)
        raise typer.BadParameter(
            f"found {unknown[0]!r}, allowed: {allowed}, or several with commas", param_hint="--by"
        )
    return tuple(dict.fromkeys(map(By, names)))


def usage_text(file: Path, by: Sequence[By], *, as_json: bool) -> str:
    """Usage by owner, as a table or as JSON."""
    return listed(usage_by(uses_of(file), by), by, as_json=as_json)


def listed(found: Sequence[Usage], by: Sequence[str], *, as_json: bool) -> str:
    """Usage that was summed up by ``by``, as a table or as JSON."""
    if as_json:
        return json.dumps({"usage": [_usage_document(one, by) for one in found]}, indent=2)
    from flopwise.telemetry import table

    heading = (*(key.upper() for key in by), *_USAGE_COLUMNS)
    return table([heading, *(_usage_row(one) for one in found)])


def idle_text(
    file: Path, window: timedelta, usd_per_gpu_hour: float | None, *, as_json: bool
) -> str:
    """What is idle at the file's end, as a table or as JSON."""
    found = idle_of(uses_of(file), Rule(window=window), usd_per_gpu_hour)
    if as_json:
        return json.dumps(_idle_document(found), indent=2, default=datetime.isoformat)
    if not found.gpus:
        return "no GPU that someone holds has been idle for so long"
    from flopwise.telemetry import table

    burning = sum(gpu.usd_per_hour or 0.0 for gpu in found.gpus)
    spent = sum(gpu.usd or 0.0 for gpu in found.gpus)
    rows = table([_IDLE_COLUMNS, *(_idle_row(gpu) for gpu in found.gpus)])
    return f"{rows}\n{len(found.gpus)} idle: ${burning:,.2f} an hour, ${spent:,.2f} so far"


def idle_of(uses: Iterator[Use], rule: Rule, usd_per_gpu_hour: float | None = None) -> Idle:
    """What is idle, with power at rest and prices of the catalog."""

    def stated(_name: str) -> float | None:
        return usd_per_gpu_hour

    price = price_of if usd_per_gpu_hour is None else stated
    return idle(uses, idle_watts=idle_watts_of, usd_per_gpu_hour=price, rule=rule)


def idle_watts_of(name: str) -> float | None:
    """What a GPU draws at rest, by the name NVML gives it; None where the catalog lacks it."""
    found = _accelerator(name)
    return found.idle_watts if found else None


@cache
def price_of(name: str) -> float | None:
    """The catalog's cheapest on-demand dollars for an hour of a GPU; None where it has none."""
    found = _accelerator(name)
    offer = find_offering(found.id) if found else None
    return offer.usd_per_gpu_hour if offer else None


@cache
def _accelerator(name: str) -> Accelerator | None:
    try:
        return resolve_accelerator(name.partition(" MIG ")[0])
    except UnknownName:
        return None


_USAGE_COLUMNS = (
    *("GPU-HOURS", "ALLOCATED", "ACTIVE", "IDLE", "UTILISED", "TENSOR", "PFLOP", "ENERGY", "GAPS"),
)


def _usage_row(one: Usage) -> tuple[str, ...]:
    return (
        *(value or "-" for value in one.of),
        f"{one.observed_gpu_hours:.3f}",
        f"{one.allocated_gpu_hours:.3f}",
        f"{one.active_gpu_hours:.3f}",
        f"{one.idle_gpu_hours:.3f}",
        f"{one.utilised_gpu_hours:.3f}",
        _known(one.tensor_gpu_hours, 1.0, ".3f"),
        _known(one.achieved_flops, 1e15, ",.0f"),
        _known(one.energy_joules, JOULES_PER_KWH, ".3f", " kWh"),
        f"{one.gap_gpu_hours:.3f} h",
    )


def _known(value: float | None, unit: float, form: str, name: str = "") -> str:
    return "unknown" if value is None else f"{value / unit:{form}}{name}"


def _usage_document(one: Usage, by: Sequence[str]) -> dict[str, Any]:
    from flopwise.telemetry import camel

    values = asdict(one)
    of = dict(zip(map(str, by), values.pop("of"), strict=True))
    return of | camel(values)


_IDLE_COLUMNS = ("NODE", "GPU", "NAME", "OWNER", "TEAM", "IDLE SINCE", "HOURS", "$/H", "$ SO FAR")


def _idle_row(gpu: IdleGpu) -> tuple[str, ...]:
    return (
        gpu.node,
        gpu.uuid,
        gpu.name,
        owner_text(gpu.owner),
        gpu.owner.team or "-",
        gpu.since.isoformat(timespec="seconds"),
        f"{gpu.hours:.2f}",
        _known(gpu.usd_per_hour, 1.0, ".2f"),
        _known(gpu.usd, 1.0, ",.2f"),
    )


def owner_text(owner: Owner) -> str:
    """Job or pod with its namespace; who is known by a process only has no name."""
    if owner == NOBODY:
        return "a process"
    name = owner.job or owner.pod or owner.team or owner.project
    return f"{owner.namespace}/{name}" if owner.namespace else name


def _idle_document(found: Idle) -> dict[str, Any]:
    from flopwise.telemetry import camel

    return {
        "gpus": [camel(asdict(gpu)) | {"hours": gpu.hours, "usd": gpu.usd} for gpu in found.gpus],
        "workloads": [
            {
                "namespace": one.owner.namespace,
                "job": one.owner.job,
                "pod": one.owner.pod,
                "team": one.owner.team,
                "since": one.since,
                "idleSeconds": one.idle_seconds,
                "gpus": len(one.gpus),
                "usdPerHour": one.usd_per_hour,
            }
            for one in found.workloads
        ],
    }
