"""One decision on a large fleet: a gang by topology, a job that cannot fit, a stream of pods.

Nodes of 8 GPUs, 16 to a rack, 8 racks to a block; every other rack is half used. Aims: a gang of
512 replicas on 1,000 nodes within a second; a job of 80 GPUs that fits no node refused, with what
binds, within a tenth; 2,000 decisions a second at 10,000 GPUs. Seconds of the processor, the best
of a few rounds: compiled loops are compiled before.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from planner.inventory import Inventory, Request
from planner.outlook import Outlook
from planner.place import Refused, place
from planner.problem import Amounts, Billing, Node, Pool
from tests.benchmarks.measure import publish

NODES, STREAM_NODES, STREAM, ROUNDS = 1_000, 1_250, 4_000, 5
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
    fleet = half_used(NODES)
    gang = Request(amounts=Amounts(gpu_milli=4_000, cpu_milli=40_000), replicas=512)
    large = Request(amounts=Amounts(gpu_milli=80_000))
    rows = [
        _row("512 replicas, by block if it can be", 1.0, lambda: place(fleet, _by(gang, "block"))),
        _row("512 replicas, apart by node", 1.0, lambda: place(fleet, _apart(gang))),
        _row("16 replicas in one rack", 1.0, lambda: place(fleet, _in_one_rack(gang))),
        _row("80 GPUs: refused, by what binds", 0.1, lambda: place(fleet, large)),
        _stream("a pod of a stream, tightest", None),
        _stream("a pod of a stream, by outlook", MIX),
    ]
    publish("place", rows)


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


def _by(gang: Request, level: str) -> Request:
    return Request(amounts=gang.amounts, replicas=gang.replicas, together=level)


def _apart(gang: Request) -> Request:
    return Request(amounts=gang.amounts, replicas=gang.replicas, spread="kubernetes.io/hostname")


def _in_one_rack(gang: Request) -> Request:
    return Request(amounts=gang.amounts, replicas=16, together="rack", together_required=True)


def _row(what: str, aim: float, decide: Callable[[], object]) -> dict[str, object]:
    answer = decide()
    seconds: list[float] = []
    for _ in range(ROUNDS):
        began = time.process_time()
        decide()
        seconds.append(time.process_time() - began)
    said = answer.message if isinstance(answer, Refused) else "placed"
    return {"decision": what, "milliseconds": 1000 * min(seconds), "aim": 1000 * aim, "said": said}


def _stream(what: str, mix: dict[Request, float] | None) -> dict[str, object]:
    """The mean of pods that come one at a time, taken where they are placed."""
    fleet = half_used(STREAM_NODES)
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
