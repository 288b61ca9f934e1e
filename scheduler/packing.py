"""Where others would put the same pods, one at a time: policies to compare placement with.

As published with the openb trace (Q. Weng et al., Beware of Fragmentation: Scheduling GPU-Sharing
Workloads with Fragmentation Gradient Descent, USENIX ATC 2023; their simulator,
github.com/hkust-adsl/kubernetes-scheduler-simulator, states the details):

Random    any node with room; a share on any device with room
BestFit   the node with the least left of CPU / 128 and GPU / 8, each weighing half; a share on the
          fullest device with room
FGD       the node and device where fragmentation grows least: the GPU that a pod of the typical
          mix could not use, expected over the mix. Typical are the most frequent shapes, by CPU,
          GPU and model, that cover 95 % of the pods.

Scores are whole numbers from 0 to 100, as a Kubernetes scheduler has them; FGD's is of the sigmoid
of the growth in GPUs. Of equals BestFit takes any, and FGD the last: with any, it fills nodes so
evenly that it ends far from its published figures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import numpy as np

from planner.compiled import compiled
from planner.inventory import Ints, Inventory, Request, Spot
from planner.outlook import Free, Outlook, Shapes, empty_memo, fits, free_of, take_up
from planner.place import spot_of
from planner.problem import GPU_MILLI

MOST_CPU_MILLI, MOST_GPU_MILLI = 128_000, 8_000  # of a node: BestFit divides by them
TYPICAL_FRACTION = 0.95


class Policy(StrEnum):
    """What a node is chosen by."""

    RANDOM = "Random"
    BEST_FIT = "BestFit"
    FGD = "FGD"


_CODES = {Policy.RANDOM: 0, Policy.BEST_FIT: 1, Policy.FGD: 2}
_RANDOM, _BEST_FIT, _FGD = _CODES.values()


def replay(
    inventory: Inventory,
    arrivals: Sequence[Request],
    policy: Policy,
    *,
    mix: Sequence[Request],
    seed: int,
) -> list[Spot | None]:
    """Places the arrivals in their order and takes what each gets; None: it fits nowhere.

    ``mix``: the requests that FGD takes the typical ones from.
    """
    kinds = Outlook.of_mix(inventory, Counter(arrivals))
    numbers = np.array([kinds.number[r] for r in arrivals], dtype=np.int64)
    common = Outlook.of_mix(inventory, typical(mix)).shapes
    ahead = inventory.copy()
    memo = empty_memo(len(kinds.number), len(inventory.names))
    chosen = _replay(
        _CODES[policy],
        kinds.shapes,
        common,
        free_of(ahead),
        np.full(memo.device.shape, -1, dtype=np.int64),
        memo.device,
        memo.seen,
        numbers,
        seed,
    )
    spots: list[Spot | None] = []
    for request, (row, device) in zip(arrivals, chosen.tolist(), strict=True):
        spots.append(None if row < 0 else spot_of(inventory, request, row, device))
        inventory.take(request, filter(None, spots[-1:]))
    return spots


def typical(pods: Sequence[Request]) -> dict[Request, float]:
    """The most frequent shapes, memory apart, that cover 95 % of the pods, with their counts."""
    counts = Counter(replace(r, amounts=replace(r.amounts, memory_bytes=0)) for r in pods)
    kept: dict[Request, float] = {}
    covered = 0
    for request, count in counts.most_common():
        if covered >= TYPICAL_FRACTION * len(pods):
            break
        kept[request] = count
        covered += count
    return kept


@compiled
def _fragments(common: Shapes, pool: int, cpu: int, gpu: Ints) -> float:
    """GPU thousandths of a node that a typical pod is expected to find of no use."""
    total = gpu.sum()
    found = 0.0
    for k in range(common.weight.size):
        each, milli = common.devices[k], common.milli[k]
        enough, too_small = 0, 0
        for d in range(gpu.size):
            if gpu[d] >= milli:
                enough += 1
            else:
                too_small += gpu[d]
        serves = each > 0 and enough >= each and cpu >= common.cpu[k] and common.pools[k, pool]
        found += common.weight[k] * (too_small if serves else total)
    return found


@compiled
def _any_device(gpu: Ints, milli: int) -> int:
    device, met = 0, 0
    for d in range(gpu.size):
        if gpu[d] >= milli:
            met += 1
            if np.random.random() * met < 1.0:
                device = d
    return device


@compiled
def _fullest_device(gpu: Ints, milli: int) -> int:
    device = -1
    for d in range(gpu.size):
        if gpu[d] >= milli and (device < 0 or gpu[d] < gpu[device]):
            device = d
    return max(device, 0)


@compiled
def _best_fit(kinds: Shapes, k: int, free: Free, row: int) -> int:
    left_gpu = free.gpu[row].sum() - kinds.devices[k] * kinds.milli[k]
    left_cpu = free.cpu[row] - kinds.cpu[k]
    return int((1 - 0.5 * (left_cpu / MOST_CPU_MILLI + left_gpu / MOST_GPU_MILLI)) * 100)


@compiled
def _fgd(kinds: Shapes, k: int, common: Shapes, free: Free, row: int) -> tuple[int, int]:
    """The score of a node with room, and the device on which a share has it."""
    gpu = free.gpu[row].copy()
    pool, milli, cpu = free.pool[row], kinds.milli[k], free.cpu[row] - kinds.cpu[k]
    before = _fragments(common, pool, free.cpu[row], gpu)
    if kinds.devices[k] != 1 or milli == GPU_MILLI:
        left = kinds.devices[k]
        for d in range(gpu.size):
            if left > 0 and gpu[d] == GPU_MILLI:
                gpu[d] = 0
                left -= 1
        return _points(_fragments(common, pool, cpu, gpu) - before), 0
    best, device = -1, 0
    for d in range(gpu.size):
        if gpu[d] >= milli:
            gpu[d] -= milli
            score = _points(_fragments(common, pool, cpu, gpu) - before)
            gpu[d] += milli
            if score > best:
                best, device = score, d
    return best, device


@compiled
def _points(growth: float) -> int:
    return int(100 / (1 + math.exp(growth / GPU_MILLI)))


@compiled
def _score(
    policy: int, kinds: Shapes, k: int, common: Shapes, free: Free, row: int
) -> tuple[int, int]:
    """Of a node with room, more is better; and the device of a share."""
    if policy == _RANDOM:
        return 0, _any_device(free.gpu[row], kinds.milli[k])
    if policy == _BEST_FIT:
        device = _fullest_device(free.gpu[row], kinds.milli[k])
        return _best_fit(kinds, k, free, row), device
    return _fgd(kinds, k, common, free, row)


@compiled
def _replay(
    policy: int,
    kinds: Shapes,
    common: Shapes,
    free: Free,
    scores: Ints,
    devices: Ints,
    seen: Ints,
    arrivals: Ints,
    seed: int,
) -> Ints:
    """(arrivals, 2): node, or -1, and device of a share."""
    np.random.seed(seed)
    chosen = np.full((arrivals.size, 2), -1, dtype=np.int64)
    touched = np.zeros(free.cpu.size, dtype=np.int64)
    for i in range(arrivals.size):
        k, best, node, equals = arrivals[i], -1, -1, 0
        for row in range(touched.size):
            if seen[k, row] < touched[row]:
                seen[k, row] = i
                scores[k, row] = -1
                if fits(kinds, k, free, row):
                    scores[k, row], devices[k, row] = _score(policy, kinds, k, common, free, row)
            if scores[k, row] < 0 or scores[k, row] < best:
                continue
            equals = equals + 1 if scores[k, row] == best else 1
            anyone = policy == _FGD or np.random.random() * equals < 1.0
            if scores[k, row] > best or anyone:
                node = row
            best = scores[k, row]
        if node >= 0:
            chosen[i, 0], chosen[i, 1] = node, devices[k, node]
            take_up(kinds, k, free, node, devices[k, node])
            touched[node] = i + 1
    return chosen
