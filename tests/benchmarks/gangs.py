"""Gangs on 1,000 nodes: placed by topology, or refused with what binds.

    python -m tests.benchmarks.gangs

The fleet of `tests.benchmarks.place`: nodes of 8 GPUs, 16 to a rack, 8 racks to a block, every
other rack half used. Aims: 512 replicas within a second; 80 GPUs that cannot be had refused within
a tenth, with what binds. What is placed is counted anew: all replicas, on GPUs that are free,
inside or apart as was asked; a refusal has to name what was made to bind.

Beside them stand figures of KAI and Kueue: seconds until their pods were bound, API server
included. Ours are decisions alone, on one core: the slowest of a few, behind one that loads
compiled loops.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from planner.inventory import Inventory, Request, Spot
from planner.place import Refused, place
from planner.problem import GPU_MILLI, Amounts
from planner.topology import HOSTNAME
from tests.benchmarks.measure import Row, publish
from tests.benchmarks.place import half_used

NODES, ROUNDS = 1_000, 5
NINE = tuple(range(960, 969))  # nodes of one rack
APART = (*range(960, 965), *range(992, 997))  # five nodes of each of two racks
PLACED = "KAI 48.7 s, Kueue 40 s"  # 512 pods; a cycle at 2,000 nodes with 700 victims
REFUSED = "KAI 249.5 s"
ONE = Amounts(gpu_milli=1_000, cpu_milli=10_000)
HALF = Amounts(gpu_milli=4_000, cpu_milli=40_000)
NODE = Amounts(gpu_milli=8_000, cpu_milli=80_000)


class WrongGang(AssertionError):
    """A gang stands where it may not: a bug."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A request to the fleet."""

    asked: str
    request: Request
    aim_seconds: float = 1.0
    published: str = PLACED
    free: tuple[int, ...] = ()  # nodes beside which nothing is free
    binds: tuple[str, ...] = ()  # empty: it has a place


CASES = (
    Case(
        asked="512 x 1 GPU in one block",
        request=Request(amounts=ONE, replicas=512, together="block", together_required=True),
    ),
    Case(
        asked="512 x 4 GPUs in few blocks",
        request=Request(amounts=HALF, replicas=512, together="block"),
    ),
    Case(
        asked="512 x 4 GPUs, apart by node",
        request=Request(amounts=HALF, replicas=512, spread=HOSTNAME),
    ),
    Case(
        asked="80 GPUs of one node",
        request=Request(amounts=Amounts(gpu_milli=80_000)),
        aim_seconds=0.1,
        published=REFUSED,
        binds=("gpu",),
    ),
    Case(
        asked="10 nodes, nine are free",
        request=Request(amounts=NODE, replicas=10),
        aim_seconds=0.1,
        published=REFUSED,
        free=NINE,
        binds=("gpu",),
    ),
    Case(
        asked="10 nodes of a rack, two have 5",
        request=Request(amounts=NODE, replicas=10, together="rack", together_required=True),
        aim_seconds=0.1,
        published=REFUSED,
        free=APART,
        binds=("rack",),
    ),
)


def main() -> None:
    rows, details = zip(*map(_measured, CASES), strict=True)
    publish("gangs", rows, details=details)


def _measured(case: Case) -> tuple[Row, Row]:
    """What is printed, and what the answer says in full."""
    fleet = half_used(NODES)
    if case.free:
        fleet.gpu_milli[[row for row in range(NODES) if row not in case.free]] = 0
    answer = place(fleet, case.request)
    seconds: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        place(fleet, case.request)
        seconds.append(time.perf_counter() - began)
    binds = answer.binds if isinstance(answer, Refused) else ()
    if binds != case.binds:
        raise WrongGang(f"{case.asked}: bound by {binds}, made to be by {case.binds}")
    row = {
        "asked": case.asked,
        "milliseconds": 1000 * max(seconds),
        "aim": 1000 * case.aim_seconds,
        "published": case.published,
        "answer": answer.reason.value if isinstance(answer, Refused) else "placed",
        "binds": ", ".join(binds) or None,
    }
    return row, {"asked": case.asked, "said": _said(fleet, case.request, answer)}


def _said(fleet: Inventory, request: Request, answer: tuple[Spot, ...] | Refused) -> str:
    """The answer in words; raises WrongGang where it breaks the request."""
    if isinstance(answer, Refused):
        return answer.message
    _count(fleet, request, answer)
    blocks = fleet.domains[fleet.levels.index("block")]
    held = {int(blocks[spot.row]) for spot in answer}
    return f"{sum(s.replicas for s in answer)} replicas, {len(answer)} nodes, {len(held)} blocks"


def _count(fleet: Inventory, request: Request, spots: Sequence[Spot]) -> None:
    used = Counter((s.row, device) for s in spots for device in s.devices)
    whole = all(fleet.gpu_milli[row, device] == GPU_MILLI for row, device in used)
    enough = sum(s.replicas for s in spots) == request.replicas
    each = len(used) == request.replicas * request.amounts.gpus == sum(used.values())
    apart = not request.spread or all(s.replicas == 1 for s in spots)
    inside = True
    if request.together_required:
        level = fleet.domains[fleet.levels.index(request.together)]
        inside = len({int(level[s.row]) for s in spots}) == 1
    if not (whole and enough and each and apart and inside):
        raise WrongGang(f"{request.replicas} replicas are not where they may be")


if __name__ == "__main__":
    main()
