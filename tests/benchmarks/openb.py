"""Placement without waste: Alibaba's openb traces, beside the published policies.

Protocol (Q. Weng et al., Beware of Fragmentation, USENIX ATC 2023): all nodes free; the pods sorted
by name and shuffled by the seed, more drawn from them with replacement until their GPUs come to
130 % of the fleet's; none leaves; one that fits nowhere is dropped, and has still arrived. What
counts is the GPU thousandths left at the end, over those of the fleet.

What is known, and when (the regime):

online       one pod at a time, in order, nothing known of later ones; one that fits is not refused
  known      the mix (how often each shape comes) is known in advance, as it is to FGD
  learnt     the mix is counted from the pods seen so far
batches      100 pods at a time, the mix known. A pod that would waste more than it uses waits, and
             is offered again with each later batch; at the end all that fits is placed
  at once    the same, but a pod that fits does not wait: all of a batch that fits is placed
planning     all pods known at once: which are left out is part of the plan

Every end is checked by plain arithmetic over the rows of the files: no node and no GPU overbooked,
whole GPUs shared with nobody, models as asked, and what is left recounted from the pods placed.
Two floors stand beside (`tests.benchmarks.openb_floor`): no placement leaves less than the first,
and none that refuses nothing less than the second, were it to know all that comes.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from planner.convert import openb
from planner.convert.openb import OpenbNode, Pod
from planner.inventory import Inventory, Request, Spot
from planner.outlook import Outlook, Seen
from planner.place import Refused, place
from planner.settle import settle
from scheduler.packing import Policy, replay
from tests.benchmarks.measure import ROOT, publish
from tests.benchmarks.openb_floor import ceiling_milli, refusing_nothing_milli

TRACES = ("default", "cpu100", "gpushare60", "gpuspec10", "multigpu20")
ARRIVED_PERCENT, BATCH = 130, 100

Spots = list[Spot | None]
Where = Callable[["World", Sequence[int], int], Spots]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A fleet and a trace."""

    nodes: tuple[OpenbNode, ...]
    pods: tuple[Pod, ...]  # sorted by name
    requests: tuple[Request, ...]  # of each pod
    fleet: Inventory
    outlook: Outlook
    learn_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "openb")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--traces", nargs="+", default=TRACES)
    asked = parser.parse_args()
    if not asked.data.is_dir():
        raise SystemExit(f"{asked.data}: not there; --data names the folder that holds the trace")
    publish("openb", [_row(asked.data, trace, asked.seeds) for trace in asked.traces])


def world_of(folder: Path, trace: str) -> World:
    """The fleet, all free, and the outlook on the trace's mix."""
    nodes = openb.read_nodes(folder / "openb_node_list_gpu_node.csv")
    pods = openb.read_pods(folder / f"openb_pod_list_{trace}.csv")
    pods = tuple(sorted(pods, key=lambda pod: pod.name))
    requests = tuple(map(openb.request, pods))
    fleet = openb.inventory(nodes)
    began = time.process_time()
    outlook = Outlook.learnt(fleet, Counter(requests))
    return World(
        nodes=nodes,
        pods=pods,
        requests=requests,
        fleet=fleet,
        outlook=outlook,
        learn_seconds=time.process_time() - began,
    )


def arrivals_of(pods: Sequence[Pod], fleet_milli: int, seed: int) -> list[int]:
    """Pods by number in their order of arrival, until their GPUs come to 130 % of the fleet's."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(pods)).tolist()
    arrived: list[int] = []
    milli = 0
    while milli * 100 < ARRIVED_PERCENT * fleet_milli:
        number = order[len(arrived)] if len(arrived) < len(order) else random.integers(len(pods))
        arrived.append(int(number))
        milli += pods[int(number)].gpus * pods[int(number)].gpu_milli
    return arrived


# -- regimes -------------------------------------------------------------------------------------


def _baseline(policy: Policy) -> Where:
    def where(world: World, arrivals: Sequence[int], seed: int) -> Spots:
        asked = [world.requests[i] for i in arrivals]
        return replay(world.fleet.copy(), asked, policy, mix=world.requests, seed=seed)

    return where


def _known(world: World, arrivals: Sequence[int], seed: int) -> Spots:
    return list(_online(world, arrivals, lambda request: world.outlook))


def _learnt(world: World, arrivals: Sequence[int], seed: int) -> Spots:
    return list(_online(world, arrivals, Seen(fleet=world.fleet).see))


def _online(
    world: World, arrivals: Sequence[int], outlook: Callable[[Request], Outlook | None]
) -> Iterator[Spot | None]:
    fleet = world.fleet.copy()
    for i in arrivals:
        request = world.requests[i]
        spots = place(fleet, request, outlook(request))
        if isinstance(spots, Refused):
            yield None
            continue
        fleet.take(request, spots)
        yield spots[0]


def _batches(size: int, limit: float) -> Where:
    def where(world: World, arrivals: Sequence[int], seed: int) -> Spots:
        fleet = world.fleet.copy()
        spots: Spots = [None] * len(arrivals)
        waiting: list[int] = []
        step = size or len(arrivals)
        ends = [*range(step, len(arrivals), step), len(arrivals)]
        for begin, end in zip([0, *ends], ends, strict=False):
            waiting += range(begin, end)
            waiting = _settled(world, fleet, arrivals, waiting, spots, limit)
            if limit == np.inf:
                waiting = []  # what does not fit is dropped: nothing leaves that could make room
        _settled(world, fleet, arrivals, waiting, spots, np.inf)
        return spots

    return where


def _settled(
    world: World,
    fleet: Inventory,
    arrivals: Sequence[int],
    waiting: list[int],
    spots: Spots,
    limit: float,
) -> list[int]:
    """Notes where those that were placed run; the others wait on."""
    asked = [world.requests[arrivals[i]] for i in waiting]
    for number, spot in settle(fleet, asked, world.outlook, limit).items():
        spots[waiting[number]] = spot
    return [i for i in waiting if spots[i] is None]


POLICIES: dict[str, Where] = {
    "Random": _baseline(Policy.RANDOM),
    "BestFit": _baseline(Policy.BEST_FIT),
    "FGD": _baseline(Policy.FGD),
    "online, mix known": _known,
    "online, mix learnt": _learnt,
    "batches of 100, at once": _batches(BATCH, np.inf),
    "batches of 100": _batches(BATCH, 0.0),
    "planning": _batches(0, np.inf),
}


def _row(folder: Path, trace: str, seeds: int) -> dict[str, object]:
    """Unallocated percent by policy, with what it is held against."""
    world = world_of(folder, trace)
    fleet_milli = sum(n.gpus for n in world.nodes) * 1000
    arrived = [arrivals_of(world.pods, fleet_milli, seed) for seed in range(seeds)]
    row: dict[str, object] = {
        "trace": trace,
        "seeds": seeds,
        "arrivals": sum(map(len, arrived)) // seeds,
        "seconds to learn the mix": world.learn_seconds,
    } | _floors(world, arrived, fleet_milli // 1000)
    published = published_percent(folder, trace)
    for name, where in POLICIES.items():
        row |= _measured(world, name, where, arrived, fleet_milli)
        if name in list(Policy):
            row[f"{name}, published %"] = published.get(name, "-")
        print(f"{trace}: {name}: {row[f'{name} %']:.2f} %", flush=True)
    return row


def _measured(
    world: World, name: str, where: Where, arrived: Sequence[Sequence[int]], fleet_milli: int
) -> dict[str, object]:
    left: list[float] = []
    seconds = 0.0
    for seed, arrivals in enumerate(arrived):
        began = time.process_time()
        spots = where(world, arrivals, seed)
        seconds += time.process_time() - began
        used = checked(world.nodes, [world.pods[i] for i in arrivals], spots)
        left.append(100 * (fleet_milli - used) / fleet_milli)
    return {
        f"{name} %": sum(left) / len(left),
        f"{name}, most %": max(left),
        f"{name}, ms a decision": 1000 * seconds / sum(map(len, arrived)),
    }


def _floors(world: World, arrived: Sequence[Sequence[int]], gpus: int) -> dict[str, object]:
    floor, refusing_nothing = 0.0, 0.0
    for arrivals in arrived:
        pods = [world.pods[i] for i in arrivals]
        floor += max(0.0, 100 - ceiling_milli(world.nodes, pods) / (10 * gpus))
        refusing_nothing += 100 - refusing_nothing_milli(gpus, pods) / (10 * gpus)
    return {
        "floor %": floor / len(arrived),
        "floor of refusing nothing %": refusing_nothing / len(arrived),
    }


# -- what is true of an end ------------------------------------------------------------------------


def checked(nodes: Sequence[OpenbNode], pods: Sequence[Pod], spots: Sequence[Spot | None]) -> int:
    """GPU thousandths placed. Raises AssertionError where an end is not possible."""
    used: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    held: dict[tuple[int, int], int] = defaultdict(int)
    total = 0
    for pod, spot in zip(pods, spots, strict=True):
        if spot is None:
            continue
        node = nodes[spot.row]
        assert not pod.models or node.model in pod.models, f"{pod.name} on a {node.model}"
        assert len(set(spot.devices)) == len(spot.devices) == pod.gpus, f"{pod.name}: its GPUs"
        assert all(0 <= d < node.gpus for d in spot.devices), f"{pod.name}: a GPU that is not there"
        used[spot.row][0] += pod.cpu_milli
        used[spot.row][1] += pod.memory_mib
        for device in spot.devices:
            held[spot.row, device] += pod.gpu_milli
        total += pod.gpus * pod.gpu_milli
    for row, (cpu, memory) in used.items():
        assert cpu <= nodes[row].cpu_milli, f"{nodes[row].name}: CPUs overbooked"
        assert memory <= nodes[row].memory_mib, f"{nodes[row].name}: memory overbooked"
    for (row, device), milli in held.items():
        assert milli <= 1000, f"{nodes[row].name}: GPU {device} overbooked"
    return total


def published_percent(folder: Path, trace: str) -> dict[str, float]:
    """Mean unallocated percent by policy at 130 % arrived, of ten seeds."""
    path = folder / "published_unallocated_percent.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {
            row["policy"]: float(row["mean_unallocated_percent"])
            for row in csv.DictReader(file)
            if row["trace"] == trace and row["arrived_percent"] == str(ARRIVED_PERCENT)
        }


if __name__ == "__main__":
    main()
