"""What a cluster's jobs have cost: the bill of its GpuJobs, as their statuses tell it.

A job is billed for the GPUs that it held, from when it was given them until it let go, at the
price of its pool as it was then. What is still held is billed until now. Workloads that are not
GpuJobs have no status to tell it, and nodes that did nothing are nobody's: neither is in the bill.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from cost_models.ledger import Ledger, Line, LineKind, apportion, micros
from cost_models.report import Assumption, LeftOut, Outcome, Report
from planner.fleet import purchase_of
from planner.manifests.read import of_object
from planner.manifests.schema import GpuPool
from scheduler.kube import gpu_jobs
from scheduler.kube.api import Raw
from scheduler.kube.gpu_jobs import Held

UNKNOWN = "unknown"  # of a pool that is no longer there


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """What a line says of its pool."""

    accelerator: str = UNKNOWN
    purchase: str = UNKNOWN
    site: str = ""


def report(
    jobs: Iterable[Raw], pools: Iterable[Raw], now: datetime, *, title: str
) -> Report | None:
    """The report of what was held up to ``now``; None where nothing was yet."""
    objects = tuple(jobs)
    held = [each for raw in objects for each in gpu_jobs.held(raw, now)]
    if not held:
        return None
    ran = {(each.namespace, each.job) for each in held}
    return Report(
        title=title,
        plan=Outcome(
            ledger=_ledger(held, _places(pools)),
            jobs=len(ran),
            left_out=tuple(_left_out(raw, now) for raw in objects if _key(raw) not in ran),
        ),
        assumptions=tuple(_price(pool, held) for pool in sorted({each.pool for each in held})),
    )


def _key(raw: Raw) -> tuple[str, str]:
    return raw["metadata"]["namespace"], raw["metadata"]["name"]


def _places(pools: Iterable[Raw]) -> dict[str, _Where]:
    found = {}
    for raw in pools:
        made = of_object(raw)
        if isinstance(made, GpuPool):
            site = made.spec.site
            found[made.metadata.name] = _Where(
                accelerator=made.spec.accelerator,
                purchase=purchase_of(made.spec).value,
                site=" ".join(filter(None, (site.provider, site.region))) or str(site.kind),
            )
    return found


def _ledger(held: list[Held], places: Mapping[str, _Where]) -> Ledger:
    lines = [_line(each, places.get(each.pool, _Where())) for each in held]
    usd = apportion(micros(math.fsum(e.usd for e in held)), [e.usd for e in held])
    sunk = [max(0.0, e.full_usd - e.usd) for e in held]
    beside = apportion(micros(math.fsum(sunk)), sunk)
    billed = (
        replace(line, usd_micros=money, full_usd_micros=money + more)
        for line, money, more in zip(lines, usd, beside, strict=True)
    )
    return Ledger(
        start=min(each.start for each in held),
        end=max(each.end for each in held),
        lines=tuple(sorted(billed, key=lambda x: (x.start, x.pool, x.job, x.end))),
    )


def _line(held: Held, where: _Where) -> Line:
    return Line(
        start=held.start,
        end=held.end,
        kind=LineKind.WORK,
        pool=held.pool,
        accelerator=where.accelerator,
        purchase=where.purchase,
        site=where.site,
        team=held.team,
        project=held.project,
        queue=held.queue,
        job=f"{held.namespace}/{held.job}",
        nodes=held.nodes,
        gpus=held.gpus,
        gpu_hours=held.gpus * held.hours,
        usd_micros=0,
        full_usd_micros=0,
    )


def _left_out(raw: Raw, now: datetime) -> LeftOut:
    row = gpu_jobs.row(raw, now)
    return LeftOut(
        job=f"{row['namespace']}/{row['name']}",
        team=row["team"],
        reason=row["reason"] or row["state"],
        message=row["message"],
        not_running_usd=0.0,  # what waits may run yet
    )


def _price(pool: str, held: Iterable[Held]) -> Assumption:
    rates = [each.usd_per_hour / each.gpus for each in held if each.pool == pool and each.gpus]
    low, high = min(rates, default=0.0), max(rates, default=0.0)
    text = f"${low:,.2f}" if high - low < 0.005 else f"${low:,.2f} to ${high:,.2f}"
    return Assumption(
        what=pool, value=f"{text} per GPU-hour", source="its GpuPool, when each job was given GPUs"
    )
