"""A fragmented fleet of 1,000 nodes, and jobs that wait for whole ones: what moves are worth.

Each node of 8 GPUs holds one to three jobs of 1 or 2 GPUs: none is free. Moving a job throws
away up to an hour of its work ($3 a GPU-hour) and restarts it for 5 minutes; one in ten forbids it.
200 jobs of 8 GPUs wait, worth $24 to $240 each: an hour to ten of a node. The floor is the price of
clearing as many nodes, the cheapest ones, each alone and with somewhere to go for all: no set of
moves that makes room for as many costs less.

    python -m tests.benchmarks.defrag [--nodes 1000] [--waiting 200] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import random
import time

from planner.defrag import Fleet, Proposal, Resident, Waiting, applied, defragment
from planner.inventory import Inventory, Request, Spot
from planner.place import Refused, place
from planner.problem import Amounts
from tests.benchmarks.measure import publish
from tests.planner.test_defrag import faults
from tests.planner.worlds import nodes_of, pool

GPUS = 8
USD_PER_GPU_HOUR = 3.0
RESTART_HOURS = 5 / 60
FIXED = 0.1
WHOLE = Request(amounts=Amounts(gpu_milli=1000 * GPUS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--waiting", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    publish("defrag", [_row(asked.nodes, asked.waiting, seed) for seed in asked.seeds])


def _row(nodes: int, waiting: int, seed: int) -> dict[str, object]:
    fleet = fragmented(nodes, waiting, seed)
    began = time.thread_time()
    found = defragment(fleet)
    seconds = time.thread_time() - began
    if wrong := faults(fleet, found):
        raise AssertionError("; ".join(wrong[:5]))
    after = applied(fleet, found)
    return {
        "seed": seed,
        "nodes": nodes,
        "running": len(fleet.residents),
        "waiting": waiting,
        "fitBefore": fitting(fleet),
        "fitAfter": len(found.placed),
        "moves": len(found.moves),
        "savingUsd": found.saving_usd,
        "priceUsd": found.price_usd,
        "floorUsd": floor_usd(fleet, found),
        "gainUsd": found.gain_usd,
        "cpuSeconds": seconds,
        "movesWhenRunAgain": len(defragment(after).moves),
    }


def fragmented(nodes: int, waiting: int, seed: int) -> Fleet:
    """A fleet without a free node."""
    rng = random.Random(seed)
    of = pool("n", nodes=nodes, gpus=GPUS)
    inventory = Inventory.of(nodes_of((of,)), (of,))
    residents: list[Resident] = []
    for row in range(nodes):
        free = list(range(GPUS))
        for _ in range(rng.randint(1, 3)):
            count = rng.choice([1, 1, 2])
            request = Request(amounts=Amounts(gpu_milli=1000 * count))
            spots = (Spot(row=row, replicas=1, devices=tuple(free[:count])),)
            free = free[count:]
            inventory.take(request, spots)
            hours = rng.random() + RESTART_HOURS
            residents.append(
                Resident(
                    job=f"job-{len(residents)}",
                    request=request,
                    spots=spots,
                    move_usd=hours * count * USD_PER_GPU_HOUR,
                    movable=rng.random() >= FIXED,
                )
            )
    jobs = (
        Waiting(
            job=f"waits-{i}",
            request=WHOLE,
            value_usd=rng.uniform(1, 10) * GPUS * USD_PER_GPU_HOUR,
        )
        for i in range(waiting)
    )
    return Fleet(inventory=inventory, residents=tuple(residents), waiting=tuple(jobs))


def fitting(fleet: Fleet) -> int:
    """Waiting jobs that fit as things are."""
    inventory = fleet.inventory.copy()
    placed = 0
    for waiting in fleet.waiting:
        found = place(inventory, waiting.request)
        if not isinstance(found, Refused):
            inventory.take(waiting.request, found)
            placed += 1
    return placed


def floor_usd(fleet: Fleet, found: Proposal) -> float:
    """The price of the nodes cheapest to clear, as many as the jobs that now fit."""
    price = [0.0] * len(fleet.inventory.names)
    for r in fleet.residents:
        price[r.spots[0].row] += r.move_usd if r.movable else float("inf")
    return sum(sorted(price)[: len(found.placed)])


if __name__ == "__main__":
    main()
