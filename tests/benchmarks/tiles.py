"""Strips of GPUs over time, tiled exactly with jobs: as many as asked, of sizes as clusters have.

Hour by hour, while GPUs of a strip are free, a tile starts on a power of two of them for a
lognormal number of whole hours. Free GPUs below the power drawn take the largest that they hold, so
nothing stays free, and every hour's tiles add up to the strip. The draw is tilted (2^k with weight
2^(tilt k)) until there are a little fewer tiles than asked; then random ones are halved.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice

MOST_GPUS = 512
LEAST_HOURS, HOURS_SIGMA = 2, 0.8
TILT = 3.0  # either way, at most
TILTINGS = 14
NEARLY = 0.97  # of the tiles asked for: the others come from halving


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a tile may be."""

    part: float  # of its pool's GPUs
    median_hours: float
    most_hours: int


SHAPES = (  # the first of which few enough make up the strips
    Shape(part=0.25, median_hours=12, most_hours=72),
    Shape(part=0.25, median_hours=24, most_hours=72),
    Shape(part=0.25, median_hours=48, most_hours=120),
    Shape(part=0.5, median_hours=48, most_hours=120),
    Shape(part=0.5, median_hours=72, most_hours=168),
    Shape(part=0.5, median_hours=96, most_hours=168),
    Shape(part=1.0, median_hours=96, most_hours=168),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """``gpus`` of a pool's GPUs, fewer from ``first`` to ``end``."""

    kind: int  # whose pool
    pool_gpus: int
    gpus: int
    hours: int
    first: int
    end: int
    gpus_between: int

    def width(self, hour: int) -> int:
        """GPUs of the strip in that hour."""
        return self.gpus_between if self.first <= hour < self.end else self.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """GPUs of a strip from an hour to another."""

    kind: int
    gpus: int
    start: int
    end: int

    @property
    def hours(self) -> int:
        return self.end - self.start


def tiles(strips: Sequence[Strip], count: int, seed: int) -> list[Tile]:
    """``count`` tiles that cover the strips. Raises ValueError where no sizes make up that many."""
    for shape in SHAPES:
        if fewest := _tilings(strips, shape, TILT, count, seed):
            found = _tilted(strips, shape, count, seed) or fewest
            return _halved(found, count, random.Random(f"{seed}:halves"))
    raise ValueError(f"{count} jobs are too few to make up that load")


def _tilted(strips: Sequence[Strip], shape: Shape, count: int, seed: int) -> list[Tile]:
    """A little less than ``count`` tiles, by bisection; none where the tilt does not reach."""
    best: list[Tile] = []
    low, high = -TILT, TILT
    for _ in range(TILTINGS):
        middle = (low + high) / 2
        made = _tilings(strips, shape, middle, count, seed)
        low, high = (low, middle) if made else (middle, high)
        best = made or best
        if len(best) >= NEARLY * count:
            break
    return best


def _tilings(
    strips: Sequence[Strip], shape: Shape, tilt: float, most: int, seed: int
) -> list[Tile]:
    """All strips tiled; none where that takes more than ``most``."""
    every = chain.from_iterable(_tiling(strip, shape, tilt, seed) for strip in strips)
    made = list(islice(every, most + 1))
    return made if len(made) <= most else []


def _tiling(strip: Strip, shape: Shape, tilt: float, seed: int) -> Iterator[Tile]:
    rng = random.Random(f"{seed}:tiles:{strip.kind}")
    top = max(1, min(MOST_GPUS, int(shape.part * strip.pool_gpus))).bit_length() - 1
    weights = list(accumulate(2.0 ** (tilt * k) for k in range(top + 1)))
    ending = [0] * (strip.hours + 1)
    used = beyond = 0  # GPUs now; GPUs of what goes on where the strip grows narrower
    for hour in range(strip.hours):
        used -= ending[hour]
        while (free := strip.width(hour) - used) > 0:
            power = bisect(weights, rng.random() * weights[-1], 0, top)
            gpus = 1 << min(power, free.bit_length() - 1)
            end = min(strip.hours, hour + _hours(rng, shape))
            if hour < strip.first < end:
                end = end if beyond + gpus <= strip.gpus_between else strip.first
                beyond += gpus if end > strip.first else 0
            yield Tile(kind=strip.kind, gpus=gpus, start=hour, end=end)
            ending[end] += gpus
            used += gpus


def _hours(rng: random.Random, shape: Shape) -> int:
    drawn = round(shape.median_hours * rng.lognormvariate(0.0, HOURS_SIGMA))
    return min(shape.most_hours, max(LEAST_HOURS, drawn))


def _halved(found: list[Tile], count: int, rng: random.Random) -> list[Tile]:
    """``count`` tiles: random ones in two, by their GPUs or else by their hours."""
    done = [t for t in found if not _splits(t)]
    whole = [t for t in found if _splits(t)]
    while len(done) + len(whole) < count:
        if not whole:
            raise ValueError(f"{count} jobs are too many for that load: it makes {len(done)}")
        i = rng.randrange(len(whole))
        whole[i], whole[-1] = whole[-1], whole[i]
        for half in _halves(whole.pop(), rng):
            (whole if _splits(half) else done).append(half)
    return done + whole


def _splits(tile: Tile) -> bool:
    return tile.gpus > 1 or tile.hours >= 2 * LEAST_HOURS


def _halves(tile: Tile, rng: random.Random) -> tuple[Tile, Tile]:
    if tile.gpus > 1:
        half = replace(tile, gpus=tile.gpus // 2)
        return half, half
    cut = tile.start + rng.randint(LEAST_HOURS, tile.hours - LEAST_HOURS)
    return replace(tile, end=cut), replace(tile, start=cut)
