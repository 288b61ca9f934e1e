"""What will be asked next, and which node to use so that least of it is lost.

A GPU is lost when what is left of it, with the CPUs beside it, suits nothing that will come. The
*mix* says what comes: shapes of requests with their weights, known or counted as they come. Each
state of a node has a *loss*, the GPU thousandths of it that are expected to stay unused once the
fleet is full, and a request goes where the loss grows least.

Sets       k shapes of the mix, with weight w[k]; devices d of a node
Data       g[k] GPU thousandths of a shape; free[d], and the node's free CPU and memory
Loss       sum over d of learnt(free[d], cpu[d])  +  ANALYTIC times the sum over k of w[k] unused[k]
where      cpu[d] is the device's part of the node's free CPUs, in proportion to free[d];
           unused[k] is the mean of what one more of k could not use (fragmentation as Q. Weng et
           al., Beware of Fragmentation, USENIX ATC 2023, measure it) and of what is left when the
           node is filled with k alone;
           learnt(free, cpu) is what was left in the end of devices that were once in that state, in
           sampled futures: arrivals drawn from the mix and placed by this same rule until the
           fleet is full. Each of a few rounds places by what those before it found; the one whose
           futures left least is kept.

Nothing in it belongs to one trace: the steps in CPU come from the mix.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planner.compiled import compiled
from planner.inventory import Flags, Ints, Inventory, Request
from planner.problem import GPU_MILLI

Floats = npt.NDArray[np.float64]

ANALYTIC = 0.03  # weight of the computed loss beside the learnt one: it tells unseen states apart
STEP_MILLI = 10  # of the learnt loss
CPU_STEPS = 14  # quantiles of the CPUs that the mix asks for
PRIOR = 3.0  # observations that the first guess of a state counts for
PACKED = 1e-6  # of a node's free GPU: among equals the fuller node, so that empty ones stay empty


class Shapes(NamedTuple):
    """One replica of each kind of request: (k) each."""

    cpu: Ints
    memory: Ints
    devices: Ints
    milli: Ints  # of each device
    device_memory: Ints
    pools: Flags  # (k, pools)
    weight: Floats


class Free(NamedTuple):
    """What an inventory has free: (n) each."""

    cpu: Ints
    memory: Ints
    gpu: Ints  # (n, d)
    device_memory: Ints  # (n, d)
    pool: Ints
    open: Flags


class Loss(NamedTuple):
    """The learnt part."""

    table: Floats  # (steps of free thousandths, steps of CPU)
    edges: Ints  # CPU milli at which a step begins, without the first


class Memo(NamedTuple):
    """Growth of the loss by shape and node: only what changed since is looked at again."""

    growth: Floats  # (k, n); inf where it does not fit
    device: Ints  # (k, n); for a share
    seen: Ints  # (k, n); -1: never


class Best(NamedTuple):
    """Where one replica costs least."""

    row: int
    device: int  # of a share
    growth: float  # of the loss, GPU thousandths


@dataclass(slots=True, kw_only=True, eq=False)
class Outlook:
    """A mix, and what was learnt of it for one fleet.

    It serves any inventory of the fleet's pools, and remembers what it found of the last one: what
    changes that one goes through `Inventory.take` and `release`, or marks the rows as ``touched``.
    """

    shapes: Shapes
    loss: Loss
    number: dict[Request, int] = field(default_factory=dict)
    memo: Memo | None = None
    of: Inventory | None = None  # whose memo it is

    @classmethod
    def of_mix(cls, inventory: Inventory, mix: Mapping[Request, float]) -> Outlook:
        """From the weights alone: nothing is learnt yet."""
        kept = {one_replica(r): 0.0 for r in mix if not r.amounts.mig}
        for request, weight in mix.items():
            if not request.amounts.mig:
                kept[one_replica(request)] += weight * request.replicas
        shapes = _shapes(inventory, kept)
        edges = _edges(shapes)
        return cls(
            shapes=shapes,
            loss=Loss(_first_guess(shapes, edges), edges),
            number={r: i for i, r in enumerate(kept)},
        )

    @classmethod
    def learnt(
        cls,
        inventory: Inventory,
        mix: Mapping[Request, float],
        *,
        rounds: int = 5,
        samples: int = 2,
        demand: float = 1.3,
        seed: int = 0,
    ) -> Outlook:
        """From sampled futures of the inventory's nodes, all free at first: the best round's.

        ``demand``: GPUs asked for until the end, over the GPUs there are. Costs ``rounds`` times
        ``samples`` runs of that many arrivals.
        """
        outlook = cls.of_mix(inventory, mix)
        guess = outlook.loss.table
        left, times = np.zeros_like(guess), np.zeros_like(guess)
        random = np.random.default_rng(seed)
        kept, least = outlook.loss, math.inf
        for _ in range(rounds):
            unused = 0
            for _ in range(samples):
                future = inventory.emptied()
                arrivals = _draw(outlook.shapes, inventory, demand, random)
                found, seen = sample(outlook, future, arrivals)
                left, times = left + found, times + seen
                unused += int(future.gpu_milli.sum())
            if unused < least:
                kept, least = outlook.loss, unused
            outlook.loss = Loss((left + PRIOR * guess) / (times + PRIOR), outlook.loss.edges)
        outlook.loss = kept
        return outlook

    def best(self, inventory: Inventory, request: Request) -> Best | None:
        """The place of one replica; None where it fits nowhere."""
        k = self.number_of(inventory, request)
        memo, free = self.memo_of(inventory), free_of(inventory)
        row, device, growth = best_place(
            self.shapes, k, free, self.loss, memo, inventory.touched, inventory.tick
        )
        return None if row < 0 else Best(row, device, growth)

    def rank(self, inventory: Inventory, request: Request) -> Floats:
        """(n): growth of the loss where one replica is put; inf where it does not fit."""
        self.best(inventory, request)
        found: Floats = self.memo_of(inventory).growth[self.number_of(inventory, request)]
        return found

    def number_of(self, inventory: Inventory, request: Request) -> int:
        """The row of the request's shape, made where it is new: of no weight in the mix."""
        one = one_replica(request)
        if one not in self.number:
            pairs = zip(self.shapes, _shapes(inventory, {one: 0.0}), strict=True)
            self.shapes = Shapes._make(np.concatenate(pair) for pair in pairs)
            self.number[one] = len(self.number)
        return self.number[one]

    def memo_of(self, inventory: Inventory) -> Memo:
        """What is known of this inventory; another one, or a new shape, starts afresh."""
        fresh = self.memo is None or len(self.memo.growth) < len(self.number)
        if self.memo is None or fresh or self.of is not inventory:
            self.memo = empty_memo(len(self.number), len(inventory.names))
            self.of = inventory
        return self.memo


FIRST, OFTENER = 64, 4  # requests seen before anything is learnt; and anew at so many times that


@dataclass(slots=True, kw_only=True, eq=False)
class Seen:
    """Requests counted as they come, and the outlook learnt of them: the mix is not known.

    The call that learns takes seconds on a thousand nodes; those between take no time.
    """

    fleet: Inventory  # whose nodes, all free, the sampled futures run on
    counts: Counter[Request] = field(default_factory=Counter)
    outlook: Outlook | None = None
    learn_at: int = FIRST

    def see(self, request: Request) -> Outlook | None:
        """Count a request that arrives; the outlook to place it by, None before anything is."""
        self.counts[one_replica(request)] += request.replicas
        if self.counts.total() >= self.learn_at:
            self.outlook = Outlook.learnt(self.fleet, self.counts, rounds=3, samples=1)
            self.learn_at *= OFTENER
        return self.outlook


def one_replica(request: Request) -> Request:
    """What the mix counts a gang by."""
    alone = request.replicas == 1 and not request.together and not request.spread
    return request if alone else replace(request, replicas=1, together="", spread="")


def sample(outlook: Outlook, fleet: Inventory, arrivals: Ints) -> tuple[Floats, Floats]:
    """One future: what was left in the end of the states met on the way, summed, and how often."""
    memo = empty_memo(len(outlook.number), len(fleet.names))
    return _sample(outlook.shapes, free_of(fleet), outlook.loss, memo, fleet.touched, arrivals)


def free_of(inventory: Inventory) -> Free:
    return Free(
        inventory.cpu_milli,
        inventory.memory_bytes,
        inventory.gpu_milli,
        inventory.gpu_memory_bytes,
        inventory.pool,
        inventory.open,
    )


def empty_memo(shapes: int, nodes: int) -> Memo:
    return Memo(
        growth=np.full((shapes, nodes), np.inf),
        device=np.zeros((shapes, nodes), dtype=np.int64),
        seen=np.full((shapes, nodes), -1, dtype=np.int64),
    )


def _shapes(inventory: Inventory, mix: Mapping[Request, float]) -> Shapes:
    def column(values: list[int]) -> Ints:
        return np.array(values, dtype=np.int64)

    amounts = [r.amounts for r in mix]
    weight = np.array(list(mix.values()), dtype=np.float64)
    return Shapes(
        cpu=column([a.cpu_milli for a in amounts]),
        memory=column([a.memory_bytes for a in amounts]),
        devices=column([a.gpus for a in amounts]),
        milli=column([min(a.gpu_milli, GPU_MILLI) for a in amounts]),
        device_memory=column([a.gpu_memory_bytes for a in amounts]),
        pools=np.array([inventory.pools_for(r) for r in mix], dtype=bool).reshape(
            len(mix), len(inventory.pools)
        ),
        weight=weight / weight.sum() if weight.sum() > 0 else weight,
    )


def _edges(shapes: Shapes) -> Ints:
    """CPU milli that equal parts of the mix's GPU shapes ask for at most, then twice and more."""
    cpu = shapes.cpu[(shapes.milli > 0) & (shapes.weight > 0)]
    if not cpu.size:
        return np.zeros(0, dtype=np.int64)
    weight = shapes.weight[(shapes.milli > 0) & (shapes.weight > 0)]
    order = np.argsort(cpu)
    upto = np.cumsum(weight[order]) / weight.sum()
    at = np.searchsorted(upto, np.linspace(0, 1, CPU_STEPS - 1), side="left").clip(max=cpu.size - 1)
    quantiles = cpu[order][at]
    most = int(quantiles[-1])
    return np.unique(np.append(quantiles, [2 * most, 4 * most])).astype(np.int64)


def _draw(shapes: Shapes, inventory: Inventory, demand: float, random: np.random.Generator) -> Ints:
    """Shapes in order of arrival, until they ask for ``demand`` times the GPUs."""
    asked = shapes.milli * shapes.devices
    wanted = demand * inventory.devices.sum() * GPU_MILLI
    mean = float(shapes.weight @ asked)
    if mean <= 0:
        return np.zeros(0, dtype=np.int64)
    drawn = random.choice(asked.size, size=int(1.2 * wanted / mean) + 100, p=shapes.weight)
    found: Ints = drawn[: int(np.searchsorted(np.cumsum(asked[drawn]), wanted)) + 1]
    return found


# -- compiled ------------------------------------------------------------------------------------


@compiled
def fits(shapes: Shapes, k: int, free: Free, row: int) -> bool:
    if not free.open[row] or not shapes.pools[k, free.pool[row]]:
        return False
    if free.cpu[row] < shapes.cpu[k] or free.memory[row] < shapes.memory[k]:
        return False
    milli, left = shapes.milli[k], shapes.devices[k]
    for d in range(free.gpu.shape[1]):
        if left == 0:
            break
        enough = free.device_memory[row, d] >= shapes.device_memory[k]
        if enough and free.gpu[row, d] >= milli:
            left -= 1
    return bool(left == 0)


@compiled
def _unused(shapes: Shapes, pool: int, cpu: int, memory: int, gpu: Ints, total: int) -> float:
    """GPU thousandths of a node that a request of the mix is expected to find of no use."""
    lost = 0.0
    for k in range(shapes.weight.size):
        each, milli = shapes.devices[k], shapes.milli[k]
        if each == 0 or shapes.weight[k] == 0.0:
            continue
        if not shapes.pools[k, pool] or cpu < shapes.cpu[k] or memory < shapes.memory[k]:
            lost += shapes.weight[k] * total
            continue
        enough, units, too_small = 0, 0, 0
        for d in range(gpu.size):
            if gpu[d] >= milli:
                enough += 1
                units += gpu[d] // milli
            else:
                too_small += gpu[d]
        if enough < each:
            lost += shapes.weight[k] * total
            continue
        fills = enough // each if each > 1 else units
        if shapes.cpu[k] > 0:
            fills = min(fills, cpu // shapes.cpu[k])
        if shapes.memory[k] > 0:
            fills = min(fills, memory // shapes.memory[k])
        lost += shapes.weight[k] * 0.5 * (too_small + total - fills * each * milli)
    return lost


@compiled
def _step(edges: Ints, cpu: float) -> int:
    step = 0
    while step < edges.size and cpu >= edges[step]:
        step += 1
    return step


@compiled
def _loss(shapes: Shapes, loss: Loss, pool: int, cpu: int, memory: int, gpu: Ints) -> float:
    total = 0
    for d in range(gpu.size):
        total += gpu[d]
    if total == 0:
        return 0.0
    lost = ANALYTIC * _unused(shapes, pool, cpu, memory, gpu, total)
    for d in range(gpu.size):
        if gpu[d] > 0:
            lost += loss.table[gpu[d] // STEP_MILLI, _step(loss.edges, cpu * gpu[d] / total)]
    return lost


@compiled
def growth_of(shapes: Shapes, k: int, free: Free, row: int, loss: Loss) -> tuple[float, int]:
    """Of the loss, when one of ``k`` is put on a node where it fits; a share's best device."""
    gpu = free.gpu[row].copy()
    pool, milli = free.pool[row], shapes.milli[k]
    before = _loss(shapes, loss, pool, free.cpu[row], free.memory[row], gpu)
    cpu, memory = free.cpu[row] - shapes.cpu[k], free.memory[row] - shapes.memory[k]
    if shapes.devices[k] != 1 or milli == GPU_MILLI:
        left = shapes.devices[k]
        for d in range(gpu.size):
            enough = free.device_memory[row, d] >= shapes.device_memory[k]
            if left > 0 and gpu[d] == GPU_MILLI and enough:
                gpu[d] = 0
                left -= 1
        return _loss(shapes, loss, pool, cpu, memory, gpu) - before, 0
    least, best = np.inf, 0
    for d in range(gpu.size):
        memory_left = free.device_memory[row, d]
        if gpu[d] < milli or memory_left < shapes.device_memory[k]:
            continue
        if d > 0 and gpu[d] == gpu[d - 1] and memory_left == free.device_memory[row, d - 1]:
            continue
        gpu[d] -= milli
        growth = _loss(shapes, loss, pool, cpu, memory, gpu) - before
        gpu[d] += milli
        if growth < least:
            least, best = growth, d
    return least, best


@compiled
def best_place(
    shapes: Shapes, k: int, free: Free, loss: Loss, memo: Memo, touched: Ints, tick: int
) -> tuple[int, int, float]:
    """Node, device and growth where the loss grows least; -1 where it fits nowhere."""
    least, best = np.inf, -1
    for row in range(touched.size):
        if memo.seen[k, row] < touched[row]:
            memo.seen[k, row] = tick
            memo.growth[k, row] = np.inf
            if fits(shapes, k, free, row):
                growth, device = growth_of(shapes, k, free, row, loss)
                memo.growth[k, row] = growth + PACKED * free.gpu[row].sum()
                memo.device[k, row] = device
        if memo.growth[k, row] < least:
            least, best = memo.growth[k, row], row
    return best, (memo.device[k, best] if best >= 0 else 0), least


@compiled
def take_up(shapes: Shapes, k: int, free: Free, row: int, device: int) -> None:
    free.cpu[row] -= shapes.cpu[k]
    free.memory[row] -= shapes.memory[k]
    if shapes.devices[k] == 1 and shapes.milli[k] < GPU_MILLI:
        free.gpu[row, device] -= shapes.milli[k]
        free.device_memory[row, device] -= shapes.device_memory[k]
        return
    left = shapes.devices[k]
    for d in range(free.gpu.shape[1]):
        enough = free.device_memory[row, d] >= shapes.device_memory[k]
        if left > 0 and free.gpu[row, d] == GPU_MILLI and enough:
            free.gpu[row, d] = 0
            free.device_memory[row, d] -= shapes.device_memory[k]
            left -= 1


@compiled
def _sample(
    shapes: Shapes, free: Free, loss: Loss, memo: Memo, touched: Ints, arrivals: Ints
) -> tuple[Floats, Floats]:
    most = free.gpu.shape[1]
    states = np.zeros((arrivals.size * most, 4), dtype=np.int64)  # node, device, both steps
    met, tick = 0, 0
    for k in arrivals:
        row, device, _ = best_place(shapes, k, free, loss, memo, touched, tick)
        if row < 0:
            continue
        take_up(shapes, k, free, row, device)
        tick += 1
        touched[row] = tick
        total = free.gpu[row].sum()
        for d in range(most):
            if free.gpu[row, d] > 0:
                states[met, 0], states[met, 1] = row, d
                states[met, 2] = free.gpu[row, d] // STEP_MILLI
                states[met, 3] = _step(loss.edges, free.cpu[row] * free.gpu[row, d] / total)
                met += 1
    left, times = np.zeros_like(loss.table), np.zeros_like(loss.table)
    for s in states[:met]:
        left[s[2], s[3]] += free.gpu[s[0], s[1]]
        times[s[2], s[3]] += 1.0
    return left, times


@compiled
def _first_guess(shapes: Shapes, edges: Ints) -> Floats:
    """Of a device with its CPUs: what fits none of the mix, or what CPUs do not reach for."""
    table = np.zeros((GPU_MILLI // STEP_MILLI + 1, edges.size + 1))
    for step in range(table.shape[0]):
        free = step * STEP_MILLI
        for c in range(table.shape[1]):
            cpu = edges[c - 1] if c > 0 else 0
            for k in range(shapes.weight.size):
                milli = shapes.milli[k]
                if shapes.devices[k] == 0 or shapes.weight[k] == 0.0:
                    continue
                lost = 1.0
                if milli <= free:
                    need = (free // milli) * shapes.cpu[k] / shapes.devices[k]
                    lost = 0.0 if need <= cpu else 1.0 - cpu / need
                table[step, c] += shapes.weight[k] * lost * free
    return table
