"""Many waiting requests placed at once: the one that costs least first, the dear ones wait.

What a request costs is how much the loss of its node grows (`planner.outlook`): what of the fleet
is expected to stay unused. A request that fills a GPU to the end takes loss away; one that leaves
a piece behind which nothing asks for adds to it. ``limit`` says how much a request may add: with
0, one that would waste more than it uses waits for a later round; without a limit, all that fits
is placed. Where more is asked for than there is, it decides what is left out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from planner.compiled import compiled
from planner.inventory import Ints, Inventory, Request, Spot
from planner.outlook import (
    PACKED,
    Free,
    Loss,
    Memo,
    Outlook,
    Shapes,
    best_place,
    free_of,
    one_replica,
    take_up,
)
from planner.place import spot_of


def settle(
    inventory: Inventory, waiting: Sequence[Request], outlook: Outlook, limit: float = math.inf
) -> dict[int, Spot]:
    """Places what it can of ``waiting`` and takes it: by number in the list, where each runs.

    Of equal requests the first in the list goes first. Raises ValueError for a gang, which is
    placed by itself (`planner.place.place`), and for MIG instances, which no outlook judges.
    """
    if any(r.amounts.mig or r != one_replica(r) for r in waiting):
        raise ValueError("settle places single replicas of GPUs, shares and CPUs")
    numbers = [outlook.number_of(inventory, r) for r in waiting]
    queues: dict[int, deque[int]] = {}
    for i, k in enumerate(numbers):
        queues.setdefault(k, deque()).append(i)
    counts = np.bincount(numbers, minlength=len(outlook.number)).astype(np.int64)
    ahead = inventory.copy()  # the loop works on a copy; what it decides is taken below, by name
    memo = outlook.memo_of(inventory)
    chosen = _settle(
        outlook.shapes, free_of(ahead), outlook.loss, memo, ahead.touched, ahead.tick, counts, limit
    )
    placed: dict[int, Spot] = {}
    for k, row, device in chosen.tolist():
        number = queues[k].popleft()
        placed[number] = spot_of(inventory, waiting[number], row, device)
        inventory.take(waiting[number], (placed[number],))
    return placed


@compiled
def _settle(
    shapes: Shapes,
    free: Free,
    loss: Loss,
    memo: Memo,
    touched: Ints,
    tick: int,
    waiting: Ints,
    limit: float,
) -> Ints:
    """(placed, 3): shape, node and device of each, in the order in which they are placed."""
    chosen = np.zeros((waiting.sum(), 3), dtype=np.int64)
    placed = 0
    while placed < chosen.shape[0]:
        least, shape, node, device = np.inf, -1, -1, 0
        for k in range(waiting.size):
            if waiting[k] > 0:
                row, at, growth = best_place(shapes, k, free, loss, memo, touched, tick)
                if row >= 0 and growth < least:
                    least, shape, node, device = growth, k, row, at
        if shape < 0 or least - PACKED * free.gpu[node].sum() > limit:
            break
        take_up(shapes, shape, free, node, device)
        waiting[shape] -= 1
        tick += 1
        touched[node] = tick
        chosen[placed, 0], chosen[placed, 1], chosen[placed, 2] = shape, node, device
        placed += 1
    return chosen[:placed]
