"""``plan.json``: the answer for scripts to read, and the question, so that it can be re-proved.

The top-level fields are those that people script against; ``problem`` and ``answer`` hold the exact
values, and everything else is derived from them. Reading takes only those two.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner import cost
from planner.codec import CodecError, decode, encode, stated
from planner.collector import paused
from planner.plan import Plan, Segment
from planner.problem import Problem

API_VERSION = "flopwise.dev/v1alpha1"
KIND = "Plan"
HEAD_BYTES = 200
_dumps = json.JSONEncoder(allow_nan=False).encode
LONGEST = 200  # characters of what is said of a file


class PlanFileError(ValueError):
    """A plan file that cannot be read: one line, naming the file and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """A question, its answer, and the answer of first-come-first-served to compare with."""

    problem: Problem
    plan: Plan
    baseline: Plan | None = None


def document(file: PlanFile) -> dict[str, Any]:
    """The JSON document of a plan."""
    members = _members(file).items()
    return {name: list(v) if isinstance(v, Iterator) else encode(v) for name, v in members}


def _members(file: PlanFile) -> dict[str, Any]:
    """The document by its fields: lists one entry at a time, values before they are encoded."""
    problem, plan = file.problem, file.plan
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "status": plan.status.value,
        "objectiveUsd": plan.costs.objective,
        "boundUsd": plan.bound.usd,
        "gapFraction": plan.gap_fraction if math.isfinite(plan.gap_fraction) else None,
        "costUsd": plan.costs.money,
        "movingUsd": plan.costs.moving,
        "latenessUsd": plan.costs.lateness,
        "notRunningUsd": plan.costs.not_running,
        "fullCostUsd": plan.full_cost_usd,
        "usefulFlops": plan.useful_flops,
        "usdPerPflop": plan.usd_per_pflop,
        "solveSeconds": plan.solve_seconds,
        "seed": plan.seed,
        "stopped": plan.stopped,
        "method": plan.method,
        "boundMethod": plan.bound.method,
        "boundRelaxes": list(plan.bound.relaxes),
        "baselineUsd": file.baseline.costs.money if file.baseline else None,
        "segments": (_segment(problem, s) for s in plan.segments),
        "unplaced": (
            {"job": u.job, "reason": u.reason.value, "message": u.message, "binds": list(u.binds)}
            for u in plan.unplaced
        ),
        "shadowPrices": (
            {
                "pool": p.pool,
                "resource": p.resource,
                "from": problem.grid.time(p.start).isoformat(),
                "to": problem.grid.time(p.end).isoformat(),
                "usdPerGpuHour": p.usd_per_gpu_hour,
                "usdPerGpuHourLow": p.low_usd_per_gpu_hour,
                "usdPerGpuHourHigh": p.high_usd_per_gpu_hour,
            }
            for p in plan.prices
        ),
        "queuePrices": (
            {"queue": q.queue, "what": q.what, "usd": q.usd}
            | {"usdLow": q.low_usd, "usdHigh": q.high_usd}
            | ({"keptBackBy": q.keepers} if q.keepers else {})
            for q in plan.queue_prices
        ),
        "problem": problem,
        "answer": plan,
        "baseline": file.baseline,
    }


def _segment(problem: Problem, segment: Segment) -> dict[str, Any]:
    mode = cost.mode_of(problem, segment)
    return {
        "job": segment.job,
        "pool": mode.pool,
        "gpus": _number(segment.replicas * problem.pool_by_name[mode.pool].gpu_share(mode.amounts)),
        "replicas": segment.replicas,
        "nodes": [p.node for p in segment.placement],
        "devices": {p.node: list(p.devices) for p in segment.placement},
        **_mig(problem, segment),
        "start": problem.grid.time(segment.start).isoformat(),
        "end": problem.grid.time(segment.end).isoformat(),
        "hours": cost.segment_hours(problem, segment),
        "costUsd": cost.segment_usd(problem, segment),
        **({"egressUsd": segment.egress_usd} if segment.egress_usd else {}),
        "flops": cost.segment_flops(problem, segment),
        "layout": mode.layout,
    }


def _mig(problem: Problem, segment: Segment) -> dict[str, Any]:
    """By node, of each device named, how it is partitioned and which instance is held."""
    geometries = problem.pool_by_name[cost.mode_of(problem, segment).pool].mig_geometries
    by_node = {
        p.node: [
            {"device": d, "geometry": list(geometries[g]), "instance": i}
            for d, g, i in zip(p.devices, p.geometries, p.instances, strict=True)
        ]
        for p in segment.placement
        if p.geometries
    }
    return {"mig": by_node} if by_node else {}


def _number(value: float) -> int | float:
    """Whole where it is: 8 GPUs, 0.25 of one."""
    return int(value) if value.is_integer() else value


@paused()
def write_plan(path: str | Path, file: PlanFile) -> None:
    """Write a plan file, whole or not at all."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.writelines(_text(file))
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except BaseException:  # whatever ended it, Ctrl-C too: nothing half written stays
        Path(temporary).unlink()
        raise


def _text(file: PlanFile) -> Iterator[str]:
    """The document piece by piece, a job, node or segment a line: a fleet's is large as a whole."""
    begin = "{"
    for name, value in _members(file).items():
        yield f'{begin}\n "{name}": '
        yield from _piecewise(value)
        begin = ","
    yield "\n}\n"


def _piecewise(value: Any) -> Iterator[str]:
    if isinstance(value, Iterator):
        yield from _lines(value)
    elif isinstance(value, Problem | Plan):
        begin = "{"
        for name, member in stated(value):
            yield f'{begin}\n  "{name}": '
            yield from _lines(map(encode, member)) if isinstance(member, tuple) else [_json(member)]
            begin = ","
        yield "\n }"
    else:
        yield _json(value)


def _lines(values: Iterable[Any]) -> Iterator[str]:
    begin = "["
    for value in values:
        yield f"{begin}\n   {_dumps(value)}"
        begin = ","
    yield "[]" if begin == "[" else "\n  ]"


def _json(value: Any) -> str:
    return _dumps(encode(value))


def is_plan(path: str | Path) -> bool:
    """Whether a file begins as plan files do: what it holds is judged by `read_plan`."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return re.search(rb'"kind":\s*"Plan"', head) is not None


@paused()
def read_plan(path: str | Path) -> PlanFile:
    """Read a plan file. Raises `PlanFileError` naming what does not fit."""
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise _refusal(path, error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"not JSON: {error}") from None
    if not isinstance(data, dict) or (data.get("apiVersion"), data.get("kind")) != (
        API_VERSION,
        KIND,
    ):
        raise _refusal(path, f"not a plan: apiVersion {API_VERSION} and kind {KIND} expected")
    try:
        file = PlanFile(
            problem=decode(Problem, data.get("problem"), "problem"),
            plan=decode(Plan, data.get("answer"), "answer"),
            baseline=decode(Plan, data["baseline"], "baseline") if data.get("baseline") else None,
        )
    except CodecError as error:
        raise _refusal(path, str(error)) from None
    _refuse_twins(path, file.plan)
    return file


def _refuse_twins(path: str | Path, plan: Plan) -> None:
    counts = Counter(u.job for u in plan.unplaced)
    if twins := sorted(job for job, n in counts.items() if n > 1):
        raise _refusal(path, f"answer.unplaced: {twins[0]} stands twice")


def _refusal(path: str | Path, text: str) -> PlanFileError:
    """One line, of a length that a terminal shows, whatever the file holds."""
    line = " ".join(text.split())
    return PlanFileError(f"{path}: {line if len(line) <= LONGEST else line[:LONGEST] + '...'}")
