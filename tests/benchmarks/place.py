"""One pod of a stream on a large fleet, decided alone (gangs: `tests.benchmarks.gangs`).

Nodes of 8 GPUs, 16 to a rack, 8 racks to a block; every other rack is half used. Aim: 2,000
decisions a second at 10,000 GPUs. Seconds of the processor; compiled loops are compiled before.
"""

from __future__ import annotations

import time

import numpy as np

from planner.inventory import Inventory, Request
from planner.outlook import Outlook
from planner.place import Refused, place
from planner.problem import Amounts, Billing, Node, Pool
from tests.benchmarks.measure import publish

NODES, STREAM = 1_250, 4_000
GIB = 2**30
POOL = Pool(
    name="h100",
    accelerator="h100-sxm5-80gb",
    gpus_per_node=8,
    capacity=Amounts(
        gpu_milli=8_000, cpu_milli=192_000, memory_bytes=2_048 * GIB, gpu_memory_bytes=80 * GIB
    ),
    windows=(),
    billing=Billing.SUNK,
    purchase="owned",
    topology_levels=("rack", "block"),
)
MIX = {
    Request(amounts=Amounts(gpu_milli=8_000, cpu_milli=160_000)): 1.0,
    Request(amounts=Amounts(gpu_milli=1_000, cpu_milli=20_000)): 6.0,
    Request(amounts=Amounts(gpu_milli=400, cpu_milli=6_000)): 3.0,
}


def main() -> None:
    publish(
        "place",
        [
            _stream("a pod of a stream, tightest", None),
            _stream("a pod of a stream, by outlook", MIX),
        ],
    )


def half_used(count: int) -> Inventory:
    """The fleet, with half of the GPUs of every other rack used."""
    nodes = [
        Node(
            name=f"n{i}",
            pool="h100",
            index=i,
            capacity=POOL.capacity,
            topology=(f"rack{i // 16}", f"block{i // 128}"),
        )
        for i in range(count)
    ]
    fleet = Inventory.of(nodes, [POOL])
    fleet.gpu_milli[np.arange(count) // 16 % 2 == 1, :4] = 0
    return fleet


def _stream(what: str, mix: dict[Request, float] | None) -> dict[str, object]:
    """The mean of pods that come one at a time, taken where they are placed."""
    fleet = half_used(NODES)
    outlook = None if mix is None else Outlook.learnt(fleet, mix, rounds=2, samples=1)
    kinds = list(MIX)
    weights = np.array(list(MIX.values()))
    drawn = np.random.default_rng(0).choice(len(kinds), size=STREAM, p=weights / weights.sum())
    place(fleet, kinds[0], outlook)
    placed = 0
    began = time.process_time()
    for k in drawn:
        spots = place(fleet, kinds[k], outlook)
        if not isinstance(spots, Refused):
            fleet.take(kinds[k], spots)
            placed += 1
    milliseconds = 1000 * (time.process_time() - began) / STREAM
    said = f"{placed} of {STREAM} placed"
    return {"decision": what, "milliseconds": milliseconds, "aim": 0.5, "said": said}


if __name__ == "__main__":
    main()
