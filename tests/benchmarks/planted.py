"""Instances of any size with a feasible schedule planted in them, as manifests.

Fleet    Eight pools, one an accelerator of `KINDS`: 8 GPUs a node, rented by the GPU-hour, ready at
         once. Speeds and prices are those of `KINDS` with a seeded noise of a few percent; the
         GPUs are shared out by a Dirichlet draw, at least 4 % to each. A pool's speed stands in its
         annotation `SPEED`: only the load needs it.
Horizon  168 hours from 2026-12-01T00:00:00Z.
Load     sum over jobs of the least (GPUs x hours x speed) over the sum over pools of (GPUs there x
         hours x speed).
Planted  Of each pool the part ``load`` of its GPUs, a strip, is tiled exactly with jobs (`tiles`):
         each has a power of two of GPUs, 512 at most and no more than a quarter of its pool, for a
         lognormal number of whole hours (median 12, 2 to 72, cut off at the horizon). Where so
         few jobs could not make up the load, they are longer, and then wider too
         (`tiles.SHAPES`): 100 jobs that fill 600 GPUs have to be.
Jobs     A tile becomes a gang of one-GPU replicas. Its work is GPUs x hours x speed of its pool. On
         another type it takes work / (speed x affinity x GPUs), affinity = exp(-|N(0, 0.2)|): the
         planted type is the best, so the least GPUs x hours x speed of a job is its tile's. One of
         the eight types is too small in memory on average, always the smallest ones, never the
         planted one. Elastic jobs may double their replicas at 0.85 to 1.0 of the efficiency, where
         a pool is large enough: some 14 modes a job. None may be interrupted.
Times    30 % have a deadline: release + max(U(1.5, 4) x fastest duration, what the tile needs).
         They, and half of the others, are released an exponential wait (mean 12 h) before the
         planted start, but not before the horizon; the rest at its start. Whole hours.

``real`` makes of it:
Services   5 % of the jobs: a model of `MODELS` on a pool where it serves well, with a daily curve
           (noon at 12, 18 or 4 UTC, night at 30 % of it). At noon they take `SERVED` of the load.
           Their replicas of noon are kept free for them throughout, beside the strip, which is
           as much smaller as their least GPUs x hours x speed, so that the load is as asked.
Elastic    20 % of the other jobs; 20 % may change mode once at a checkpoint (saved each 1800 s in
           60 s, restarted in 240 s) and may be interrupted.
Away       8 hours without a tenth of the nodes, once on each of three pools; where the planted
           schedule would not leave that room, the strip is narrower for as long.
Queues     org, 4 departments, 4 teams in each; every job has a team. A limit on each accelerator
           for the departments and on two of them for each team: 1.1 times the planted peak.

The same arguments give the same bytes on any machine: draws come from `random.Random`.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import accumulate
from pathlib import Path

from cost_models.accelerators import resolve_accelerator
from cost_models.architectures import resolve_architecture
from cost_models.inference import InferenceEstimate, estimate_inference
from cost_models.training import DoesNotFit
from tests.benchmarks.tiles import Strip, Tile, tiles

API_VERSION = "flopwise.dev/v1alpha1"
SPEED = "flopwise.dev/relative-speed"
START = datetime(2026, 12, 1, tzinfo=UTC)
HOURS = 168
GPUS_PER_NODE = 8
KINDS = (  # id in the catalog, speed over an H100's, USD a GPU-hour
    ("b200", 2.3, 5.5),
    ("h200-sxm-141gb", 1.15, 3.8),
    ("h100-sxm5-80gb", 1.0, 3.0),
    ("mi300x", 1.0, 2.6),
    ("a100-sxm4-80gb", 0.42, 1.6),
    ("a100-sxm4-40gb", 0.38, 1.3),
    ("l40s", 0.28, 0.9),
    ("v100-sxm2-32gb", 0.14, 0.55),
)
LEAST_SHARE = 0.04  # of the GPUs, for each pool
TOO_SMALL = (0.3, 0.3, 0.25, 0.15)  # how often 0, 1, 2, 3 types are
AFFINITY_SIGMA = 0.2
LEAST_EFFICIENCY = 0.85
DEADLINES, RELEASED = 0.3, 0.65  # of the jobs: with a deadline; with that or a release
SLACK = (1.5, 4.0)  # times the fastest duration
WAIT_HOURS = 12.0
SERVICES, SERVED = 0.05, 0.1
ELASTIC, SWITCHING = 0.2, 0.2
CHECKPOINT = {"intervalSeconds": 1800, "saveSeconds": 60, "restartSeconds": 240, "switches": 1}
AWAY_POOLS, AWAY_HOURS, AWAY_FRACTION = 3, 8, 0.1
DEPARTMENTS, TEAMS, LIMITED = 4, 4, 2
SPARE, LEAST_LIMIT = 1.1, 8
MODELS = (("llama-3.1-8b", "bf16"), ("qwen-2.5-32b", "bf16"), ("llama-3.3-70b", "fp8"))
SERVES_WELL = 1.4  # times the least GPUs x speed for a request a second, of all types
NOONS = (12, 12, 18, 4)  # UTC
NIGHT = 0.3
FULL = 0.98  # of what its replicas serve, at noon
PROMPT_TOKENS, OUTPUT_TOKENS = 1024, 256
TTFT_MS, TPOT_MS = 2000.0, 100.0

Fields = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Where and when a job runs in the schedule that is known to be feasible."""

    job: str
    pool: str
    gpus: int  # of a service: its replicas of noon, throughout
    start: int  # hours from START, half open
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Manifests (pools, queues, jobs), the schedule planted in them, and their load."""

    documents: tuple[Fields, ...]
    planted: tuple[Planted, ...]
    load: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """A pool of the type at ``kind`` in `KINDS`."""

    kind: int
    nodes: int
    speed: float
    usd: float
    away: tuple[int, int] = (HOURS, HOURS)  # hours without `away_nodes`
    away_nodes: int = 0

    @property
    def name(self) -> str:
        return KINDS[self.kind][0]

    @property
    def gpus(self) -> int:
        return self.nodes * GPUS_PER_NODE

    @property
    def gpu_hours(self) -> int:
        first, end = self.away
        return self.gpus * HOURS - self.away_nodes * GPUS_PER_NODE * (end - first)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    """A model's replicas on the pool at ``kind``."""

    kind: int
    model: str
    precision: str
    gpus: int  # at noon
    rates: tuple[float, ...]  # requests a second, by hour of the day (UTC)
    least: float  # GPUs x hours x speed over the horizon, on the type where it is least


def generate(
    *,
    jobs: int,
    gpus: int,
    load: float,
    seed: int,
    real: bool = False,
    fleet_seed: int | None = None,
) -> Instance:
    """``jobs`` jobs for about ``gpus`` GPUs at ``load`` (above 0, at most 1).

    ``fleet_seed``: draw the fleet by this seed, so that several days of jobs meet the same one.
    Raises ValueError where so few jobs cannot make up that load, or so many not be cut out of it.
    """
    fleet = seed if fleet_seed is None else fleet_seed
    if not 0 < load <= 1:
        raise ValueError(f"load: found {load:g}, allowed: above 0, at most 1")
    pools = _fleet(gpus, random.Random(f"{fleet}:fleet"), real)
    count = round(SERVICES * jobs) if real else 0
    services = _services(pools, load, count, random.Random(f"{seed}:services"))
    made = tiles(list(_strips(pools, services, load)), jobs - count, seed)
    named = _named([*made, *services], random.Random(f"{seed}:order"))
    planted = tuple(_planted(name, work) for name, work in named)
    teams = _teams(planted, random.Random(f"{seed}:teams")) if real else {}
    rng = random.Random(f"{seed}:jobs")
    documents = (
        *map(_pool_document, pools),
        *(_queue_documents(planted, teams, random.Random(f"{seed}:limits")) if real else ()),
        *(_job_document(pools, name, work, teams.get(name, ""), rng, real) for name, work in named),
    )
    done = sum(s.least for s in services)
    done += sum(pools[t.kind].speed * t.gpus * t.hours for t in made)
    there = sum(p.speed * p.gpu_hours for p in pools)
    return Instance(documents=documents, planted=planted, load=done / there)


def write(made: Instance, path: Path) -> None:
    """The manifests, a line each."""
    with path.open("w", encoding="utf-8") as out:
        for document in made.documents:
            out.write(json.dumps(document, separators=(",", ":")) + "\n")


def _named(work: list[Tile | _Service], rng: random.Random) -> list[tuple[str, Tile | _Service]]:
    """All work with names, in an order that tells nothing."""
    rng.shuffle(work)
    digits = len(str(len(work) - 1))
    return [(f"job-{i:0{digits}}", each) for i, each in enumerate(work)]


def _planted(name: str, work: Tile | _Service) -> Planted:
    start, end = (work.start, work.end) if isinstance(work, Tile) else (0, HOURS)
    return Planted(job=name, pool=KINDS[work.kind][0], gpus=work.gpus, start=start, end=end)


def _strips(pools: Sequence[_Pool], services: Sequence[_Service], load: float) -> Iterator[Strip]:
    """What of each pool is tiled, beside its services."""
    there = sum(p.speed * p.gpu_hours for p in pools)
    part = load - sum(s.least for s in services) / there
    owed = 0.0  # GPUs x speed that rounding to whole GPUs has left out so far
    for pool in pools:
        kept = sum(s.gpus for s in services if s.kind == pool.kind)
        gpus = min(round(part * pool.gpus + owed / pool.speed), pool.gpus - kept)
        owed += (part * pool.gpus - gpus) * pool.speed
        first, end = pool.away
        yield Strip(
            kind=pool.kind,
            pool_gpus=pool.gpus,
            gpus=gpus,
            hours=HOURS,
            first=first,
            end=end,
            gpus_between=min(gpus, pool.gpus - pool.away_nodes * GPUS_PER_NODE - kept),
        )


# -- fleet -----------------------------------------------------------------------------------------


def _fleet(gpus: int, rng: random.Random, real: bool) -> list[_Pool]:
    draws = [rng.gammavariate(2.0, 1.0) for _ in KINDS]
    spare = 1 - LEAST_SHARE * len(KINDS)
    pools = [
        _Pool(
            kind=k,
            nodes=max(
                1, round((LEAST_SHARE + spare * draws[k] / sum(draws)) * gpus / GPUS_PER_NODE)
            ),
            speed=round(speed * rng.uniform(0.97, 1.03), 4),
            usd=round(usd * rng.uniform(0.96, 1.04), 3),
        )
        for k, (_, speed, usd) in enumerate(KINDS)
    ]
    for k in rng.sample(range(len(pools)), AWAY_POOLS) if real else ():
        first = rng.randrange(24, HOURS - 24)
        nodes = max(1, round(AWAY_FRACTION * pools[k].nodes))
        pools[k] = replace(pools[k], away=(first, first + AWAY_HOURS), away_nodes=nodes)
    return pools


def _pool_document(pool: _Pool) -> Fields:
    spec: Fields = {
        "accelerator": pool.name,
        "gpusPerNode": GPUS_PER_NODE,
        "nodes": pool.nodes,
        "price": {"purchase": "on_demand", "usdPerGpuHour": pool.usd, "billing": "gpu"},
        "startupSeconds": 0,
    }
    if pool.away_nodes:
        first, end = map(_time, pool.away)
        left = pool.nodes - pool.away_nodes
        spec["availability"] = [{"from": first, "to": end, "nodes": left}]
    return _document("GpuPool", pool.name, spec, annotations={SPEED: str(pool.speed)})


def _document(kind: str, name: str, spec: Fields, **metadata: object) -> Fields:
    head = {"name": name, **metadata}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": head, "spec": spec}


@cache
def _time(hour: int) -> str:
    return f"{START + timedelta(hours=hour):%Y-%m-%dT%H:%M:%SZ}"


# -- services --------------------------------------------------------------------------------------


def _services(
    pools: Sequence[_Pool], load: float, count: int, rng: random.Random
) -> list[_Service]:
    """``count`` services, which have `SERVED` of the load of their pools at noon."""
    homes = rng.choices(pools, [p.gpus for p in pools], k=count)
    sizes = [rng.uniform(0.5, 1.5) for _ in homes]
    total = dict.fromkeys(range(len(pools)), 0.0)
    for pool, size in zip(homes, sizes, strict=True):
        total[pool.kind] += size
    return [
        _service(pools, pool, SERVED * load * pool.gpus * size / total[pool.kind], rng)
        for pool, size in zip(homes, sizes, strict=True)
    ]


def _service(pools: Sequence[_Pool], home: _Pool, gpus: float, rng: random.Random) -> _Service:
    """A service on about ``gpus`` GPUs of ``home``; at least one replica."""
    well = [m for m in MODELS if _serves_well(pools, home, m)]
    small = [m for m in well if _replica(home.kind, m).gpus_per_replica <= gpus]
    model = rng.choice(small or well[:1])
    replica = _replica(home.kind, model)
    replicas = max(1, round(gpus / replica.gpus_per_replica))
    most = FULL * replicas * replica.requests_per_second_per_replica
    noon = rng.choice(NOONS)
    rates = tuple(
        round(most * (NIGHT + (1 - NIGHT) * (1 + math.cos(math.tau * (hour - noon) / 24)) / 2), 3)
        for hour in range(24)
    )
    return _Service(
        kind=home.kind,
        model=model[0],
        precision=model[1],
        gpus=replicas * replica.gpus_per_replica,
        rates=rates,
        least=min(_gpu_hours(p, model, rates) * p.speed for p in pools if _fits(p.kind, model)),
    )


def _serves_well(pools: Sequence[_Pool], home: _Pool, model: tuple[str, str]) -> bool:
    def each(pool: _Pool) -> float:
        replica = _replica(pool.kind, model)
        return replica.gpus_per_replica * pool.speed / replica.requests_per_second_per_replica

    least = min(each(p) for p in pools if _fits(p.kind, model))
    return _fits(home.kind, model) and each(home) <= SERVES_WELL * least


def _gpu_hours(pool: _Pool, model: tuple[str, str], rates: Sequence[float]) -> float:
    replica = _replica(pool.kind, model)
    day = [max(1, math.ceil(r / replica.requests_per_second_per_replica - 1e-9)) for r in rates]
    return replica.gpus_per_replica * sum(day) * HOURS / 24


def _fits(kind: int, model: tuple[str, str]) -> bool:
    return isinstance(_estimate(kind, model), InferenceEstimate)


def _replica(kind: int, model: tuple[str, str]) -> InferenceEstimate:
    made = _estimate(kind, model)
    if not isinstance(made, InferenceEstimate):
        raise TypeError(f"{model[0]} does not fit {KINDS[kind][0]}: {made.message}")
    return made


@cache
def _estimate(kind: int, model: tuple[str, str]) -> InferenceEstimate | DoesNotFit:
    name, precision = model
    return estimate_inference(
        resolve_architecture(name),
        resolve_accelerator(KINDS[kind][0]),
        precision=precision,
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=OUTPUT_TOKENS,
        ttft_ms=TTFT_MS,
        tpot_ms=TPOT_MS,
        percentile=99.0,
        gpus_per_node=GPUS_PER_NODE,
    )


# -- queues ----------------------------------------------------------------------------------------


def _teams(planted: Sequence[Planted], rng: random.Random) -> dict[str, str]:
    """A team for each job."""
    departments, teams = range(DEPARTMENTS), range(TEAMS)
    return {p.job: f"dept-{rng.choice(departments)}-team-{rng.choice(teams)}" for p in planted}


def _queue_documents(
    planted: Sequence[Planted], teams: dict[str, str], rng: random.Random
) -> Iterator[Fields]:
    yield _document("GpuQueue", "org", {})
    for d in range(DEPARTMENTS):
        department = f"dept-{d}"
        ours = [p for p in planted if teams[p.job].startswith(f"{department}-")]
        limit = _limit(ours, [name for name, _, _ in KINDS])
        yield _document("GpuQueue", department, {"parent": "org", "limit": limit})
        for t in range(TEAMS):
            team = f"{department}-team-{t}"
            some = rng.sample([name for name, _, _ in KINDS], LIMITED)
            limit = _limit([p for p in ours if teams[p.job] == team], some)
            yield _document("GpuQueue", team, {"parent": department, "limit": limit})


def _limit(planted: Sequence[Planted], accelerators: Sequence[str]) -> dict[str, int]:
    """`SPARE` times the most GPUs at once, by accelerator."""
    return {
        name: max(LEAST_LIMIT, math.ceil(SPARE * _peak([p for p in planted if p.pool == name])))
        for name in accelerators
    }


def _peak(planted: Sequence[Planted]) -> int:
    change = [0] * (HOURS + 1)
    for p in planted:
        change[p.start] += p.gpus
        change[p.end] -= p.gpus
    return max(accumulate(change))


# -- jobs ------------------------------------------------------------------------------------------


def _job_document(
    pools: Sequence[_Pool],
    name: str,
    work: Tile | _Service,
    team: str,
    rng: random.Random,
    real: bool,
) -> Fields:
    spec: Fields = {"queue": team} if team else {}
    if isinstance(work, _Service):
        spec |= _service_spec(work)
    else:
        spec |= _task_spec(pools, work, rng, real)
    return _document("GpuJob", name, spec)


def _service_spec(service: _Service) -> Fields:
    inference = {
        "model": service.model,
        "precision": service.precision,
        "promptTokens": PROMPT_TOKENS,
        "outputTokens": OUTPUT_TOKENS,
        "hourlyRequestsPerSecond": list(service.rates),
        "objective": {"ttftMs": TTFT_MS, "tpotMs": TPOT_MS},
    }
    return {"earliestStart": _time(0), "preemptible": False, "inference": inference}


def _task_spec(pools: Sequence[_Pool], tile: Tile, rng: random.Random, real: bool) -> Fields:
    hours = _hours(pools, tile, rng)
    efficiency = round(rng.uniform(LEAST_EFFICIENCY, 1.0), 3)
    largest = max(p.gpus for p in pools if p.name in hours)
    elastic = 2 * tile.gpus <= largest and rng.random() < (ELASTIC if real else 1.0)
    task: Fields = {"replicas": tile.gpus, "gpus": 1, "hours": hours}
    fastest = min(h for p in pools if (h := hours.get(p.name)) and p.gpus >= tile.gpus)
    if elastic:
        task |= {"maxReplicas": 2 * tile.gpus, "doublingEfficiency": efficiency}
        wide = (h for p in pools if (h := hours.get(p.name)) and p.gpus >= 2 * tile.gpus)
        fastest = min(fastest, min(wide) / 2 / efficiency)
    spec = _times(tile, fastest, rng)
    if real and rng.random() < SWITCHING:
        return spec | {"preemptible": True, "checkpoint": CHECKPOINT, "task": task}
    return spec | {"preemptible": False, "task": task}


def _hours(pools: Sequence[_Pool], tile: Tile, rng: random.Random) -> dict[str, float]:
    """Hours of a tile's work on ``tile.gpus`` GPUs, by the types that are large enough."""
    smallest = _by_memory()
    many = rng.choices(range(len(TOO_SMALL)), TOO_SMALL)[0]
    out = smallest[: min(many, smallest.index(tile.kind))]
    found: dict[str, float] = {}
    for pool in pools:
        affinity = math.exp(-abs(rng.gauss(0.0, AFFINITY_SIGMA)))
        if pool.kind == tile.kind:
            found[pool.name] = float(tile.hours)
        elif pool.kind not in out:
            slower = pools[tile.kind].speed / (pool.speed * affinity)
            found[pool.name] = round(tile.hours * slower, 4)
    return found


@cache
def _by_memory() -> tuple[int, ...]:
    """Types by the memory of one GPU, the smallest first."""
    sizes = [resolve_accelerator(name).memory_gib for name, _, _ in KINDS]
    return tuple(sorted(range(len(KINDS)), key=lambda kind: sizes[kind]))


def _times(tile: Tile, fastest: float, rng: random.Random) -> Fields:
    """Release and deadline around the planted tile, in whole hours."""
    which, wait = rng.random(), rng.expovariate(1 / WAIT_HOURS)
    slack = rng.uniform(*SLACK)
    release = max(0, math.floor(tile.start - wait)) if which < RELEASED else 0
    if which >= DEADLINES:
        return {"earliestStart": _time(release)}
    deadline = release + max(math.ceil(slack * fastest), tile.end - release)
    return {"earliestStart": _time(release), "deadline": _time(min(HOURS, deadline))}
