"""Small builders of problems, and seeded random ones for the exactness tests."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice, permutations
from typing import Any

from planner.guarantees import with_guarantees
from planner.problem import (
    Amounts,
    Billing,
    Demand,
    Device,
    Grid,
    Interruption,
    Job,
    Mix,
    Mode,
    Node,
    Pool,
    Problem,
    Queue,
    Running,
    Window,
    Work,
)

START = datetime(2026, 12, 1, tzinfo=UTC)
MONTH_END = datetime(2026, 11, 30, 22, tzinfo=UTC)  # two hours before December
HOSTNAME = "kubernetes.io/hostname"
RACK = "rack"
NODES_PER_RACK = 2
GEOMETRIES = (("3g.40gb", "3g.40gb"), ("3g.40gb", "2g.20gb", "1g.10gb"))
GIB = 2**30
WHAT = ("gpu_milli", "cpu_milli", "memory_bytes")


def grid(slots: int = 6, slot_seconds: int = 3600, start: datetime = START) -> Grid:
    return Grid(start=start, slot_seconds=slot_seconds, slots=slots)


def pool(
    name: str,
    *,
    nodes: int = 1,
    gpus: int = 1,
    usd: float = 1.0,
    billing: Billing = Billing.GPU,
    slots: int = 6,
    windows: tuple[tuple[int, int, int], ...] = (),
    times: tuple[float, ...] = (),
    cpus: int = 0,
    gib: int = 0,
    startup_seconds: int = 0,
    accelerator: str = "",
    interruptions_per_hour: float = 0.0,
    levels: tuple[str, ...] = (),
    gpu_gib: int = 0,
    mig: tuple[tuple[str, ...], ...] = (),
) -> Pool:
    """``nodes`` nodes of ``gpus`` GPUs at ``usd`` a GPU-hour; ``windows`` as (from, to, nodes).

    ``times``: the price in each window, over ``usd``.
    """
    spans = windows or ((0, slots, nodes),)
    prices = [usd * gpus * x for x in times or (1.0,) * len(spans)]
    return Pool(
        name=name,
        accelerator=accelerator or name,
        gpus_per_node=gpus,
        capacity=Amounts(
            gpu_milli=1000 * gpus,
            cpu_milli=1000 * cpus,
            memory_bytes=GIB * gib,
            gpu_memory_bytes=GIB * gpu_gib,
        ),
        windows=tuple(
            Window(
                start=a,
                end=b,
                nodes=n,
                usd_per_node_hour=price,
                marginal_usd_per_node_hour=price / 10,
            )
            for (a, b, n), price in zip(spans, prices, strict=True)
        ),
        billing=billing,
        purchase="on_demand",
        startup_seconds=startup_seconds,
        interruptions_per_hour=interruptions_per_hour,
        topology_levels=levels,
        mig_geometries=mig,
    )


def nodes_of(
    pools: tuple[Pool, ...],
    cordoned: frozenset[str] = frozenset(),
    unhealthy: frozenset[tuple[str, int]] = frozenset(),
) -> tuple[Node, ...]:
    """The pools' nodes, ``h100-0``, ``h100-1``, ...; those named in ``cordoned`` take nothing.

    Where a pool has the level ``rack``, two after another share one. Of each (node, GPU) in
    ``unhealthy`` the GPU takes nothing.
    """
    return tuple(
        Node(
            name=f"{p.name}-{i}",
            pool=p.name,
            index=i,
            capacity=p.capacity,
            cordoned="under repair" if f"{p.name}-{i}" in cordoned else "",
            topology=(f"{p.name}-rack-{i // NODES_PER_RACK}",) if p.topology_levels else (),
            devices=tuple(
                Device(uuid=f"{p.name}-{i}-{d}", unhealthy="Xid 79" if bad else "")
                for d in range(p.gpus_per_node)
                for bad in [(f"{p.name}-{i}", d) in unhealthy]
            ),
        )
        for p in pools
        for i in range(max(w.nodes for w in p.windows))
    )


def mode(
    of: Pool,
    *,
    hours: float = 1.0,
    replicas: int = 1,
    gpus: int = 1,
    cpus: int = 0,
    gib: int = 0,
    milli: int = 0,
    gpu_gib: int = 0,
    profile: str = "",
    usd: float | None = None,
    serves: float | None = None,
    spread: str = "",
    together: str = "",
) -> Mode:
    """A mode on ``of``: the gang does one unit in ``hours``; of a service, a replica ``serves``.

    A replica takes ``gpus`` GPUs, or ``milli`` thousandths of one, or an instance of ``profile``.
    """
    rate = of.windows[0].usd_per_node_hour / max(1, of.gpus_per_node) if usd is None else usd
    amounts = Amounts(
        gpu_milli=0 if profile else milli or 1000 * gpus,
        cpu_milli=1000 * cpus,
        memory_bytes=GIB * gib,
        gpu_memory_bytes=GIB * gpu_gib,
        mig=((profile, 1),) if profile else (),
    )
    return Mode(
        pool=of.name,
        replicas=replicas,
        amounts=amounts,
        work_per_replica_hour=serves if serves is not None else 1 / (hours * replicas),
        usd_per_replica_hour=rate * of.gpu_share(amounts),
        full_usd_per_replica_hour=rate * of.gpu_share(amounts),
        flops_per_work=1e15,
        spread=spread,
        together=together,
        together_required=bool(together),
    )


def job(name: str, *modes: Mode, slots: int = 6, **fields: Any) -> Job:
    made = Job(name=name, need=Work(amount=1.0), modes=modes, deadline=slots, unplaced_usd=1000.0)
    return replace(made, **fields)


def problem(
    pools: tuple[Pool, ...],
    jobs: tuple[Job, ...],
    *,
    slots: int = 6,
    slot_seconds: int = 3600,
    start: datetime = START,
    queues: tuple[Queue, ...] = (),
    cordoned: frozenset[str] = frozenset(),
    unhealthy: frozenset[tuple[str, int]] = frozenset(),
    running: tuple[Running, ...] = (),
) -> Problem:
    return Problem(
        grid=grid(slots, slot_seconds, start),
        pools=pools,
        nodes=nodes_of(pools, cordoned, unhealthy),
        jobs=jobs,
        queues=queues,
        running=running,
    )


# -- random worlds -------------------------------------------------------------------------------


def timed_problem(seed: int) -> Problem:
    """A problem small enough to enumerate, with every feature that the planner plans."""
    return random_problem(seed, timed=True)


def random_problem(seed: int, *, timed: bool = False) -> Problem:
    """The same; but for ``timed`` ones no job stops or runs already, and no price changes."""
    rng = random.Random(seed)
    stops = timed and rng.random() < 0.4
    slots = 4 if stops else rng.randint(3, 6)
    pools = tuple(
        _random_pool(rng, f"p{i}", slots, timed, 2 if stops else 3)
        for i in range(rng.choice([1, 2, 2]))
    )
    queues = _random_queues(rng, pools)
    jobs = tuple(_random_job(rng, i, pools, slots, queues) for i in range(rng.randint(1, 4)))
    jobs = (*_random_stops(rng, jobs[:2], slots), *jobs[2:]) if stops else jobs
    names = [n.name for n in nodes_of(pools)]
    gpus = [(n.name, d) for n in nodes_of(pools) for d in range(len(n.devices))]
    made = problem(
        pools,
        _random_dependencies(rng, jobs),
        slots=slots,
        slot_seconds=rng.choice([3600, 3600, 3600, 1800, 2400]),
        start=rng.choice([START, MONTH_END, MONTH_END]),
        queues=queues,
        cordoned=frozenset([rng.choice(names)] if rng.random() < 0.15 else []),
        unhealthy=frozenset([rng.choice(gpus)] if rng.random() < 0.2 else []),
    )
    made = _random_running(rng, made) if timed and rng.random() < 0.3 else made
    made = _random_data(random.Random(f"data {seed}"), made) if timed else made
    return _random_rights(random.Random(f"rights of {seed}"), made)


def larger_problem(seed: int, *, timed: bool = False) -> Problem:
    """The same features, too large to enumerate."""
    rng = random.Random(seed)
    slots = rng.randint(8, 16)
    pools = tuple(_random_pool(rng, f"p{i}", slots, timed) for i in range(3))
    queues = _random_queues(rng, pools)
    jobs = tuple(_random_job(rng, i, pools, slots, queues) for i in range(rng.randint(10, 30)))
    made = problem(
        pools,
        _random_dependencies(rng, _random_stops(rng, jobs, slots) if timed else jobs),
        slots=slots,
        start=rng.choice([START, MONTH_END]),
        queues=queues,
    )
    made = _random_running(rng, made) if timed and rng.random() < 0.5 else made
    made = _random_data(random.Random(f"data {seed}"), made) if timed else made
    return _random_rights(random.Random(f"rights of {seed}"), made)


def _random_rights(rng: random.Random, made: Problem) -> Problem:
    """Sometimes, guarantees of queues and what they do not lend, and a queue of guests beside them.

    From a generator of its own: worlds without are what they were.
    """
    if not made.queues or rng.random() < 0.4:
        return made
    guests = Queue(name="guests", parent=rng.choice(["", "root"]))
    queues = [_with_rights(rng, queue, made.pools) for queue in (*made.queues, guests)]
    jobs = tuple(
        replace(j, queue="guests") if not j.queue and rng.random() < 0.5 else j for j in made.jobs
    )
    return with_guarantees(replace(made, queues=tuple(queues), jobs=jobs))


def _with_rights(rng: random.Random, queue: Queue, pools: tuple[Pool, ...]) -> Queue:
    chance = {"root": 0.3, "team": 0.8, "guests": 0.4}[queue.name]
    if rng.random() > chance:
        return queue
    accelerator, gpus = rng.choice(pools).accelerator, rng.choice([1, 1, 2, 3])
    gpus = min(gpus, dict(queue.limit).get(accelerator, gpus))
    lent = rng.choice([None, ((accelerator, 0),), ((accelerator, gpus - 1),)])
    return replace(queue, guaranteed=((accelerator, gpus),), lendable=lent)


def _random_data(rng: random.Random, made: Problem) -> Problem:
    """Some jobs whose data are elsewhere than some of the pools."""
    jobs = []
    for j in made.jobs:
        has = rng.random() < 0.3
        usd = {p.name: rng.choice([0.0, round(rng.uniform(0.2, 8.0), 2)]) for p in made.pools}
        modes = tuple(replace(m, egress_usd=usd[m.pool]) for m in j.modes)
        jobs.append(replace(j, modes=modes) if has else j)
    return replace(made, jobs=tuple(jobs))


def _random_stops(rng: random.Random, jobs: tuple[Job, ...], slots: int) -> tuple[Job, ...]:
    """Most of ``jobs`` may stop at a checkpoint, and some of those go on in another mode."""
    return tuple(
        _stopping(rng, j, slots) if isinstance(j.need, Work) and rng.random() < 0.8 else j
        for j in jobs
    )


def _stopping(rng: random.Random, j: Job, slots: int) -> Job:
    """As long, worth as much, and with as much time that to stop may pay."""
    hours = [1 / (m.replicas * m.work_per_replica_hour) for m in j.modes]
    long = rng.uniform(0.4, 1.0) * slots / (rng.choice(hours) if hours else 1.0)
    roomy = rng.random() < 0.7
    return replace(
        j,
        need=Work(amount=round(long, 1) if rng.random() < 0.7 else 1.0),
        interruption=Interruption(
            checkpoint_seconds=600,
            save_seconds=rng.choice([0, 0, 60, 300, 900]),
            restart_seconds=rng.choice([0, 0, 120, 600, 2000]),
        ),
        switches=rng.choice([0, 0, 1, 1, 2]),
        release=0 if roomy else j.release,
        deadline=slots if roomy else j.deadline,
        unplaced_usd=round(rng.uniform(20, 90), 2) if roomy else j.unplaced_usd,
        max_cost_usd=None if roomy else j.max_cost_usd,
    )


def _random_running(rng: random.Random, made: Problem) -> Problem:
    """Jobs that run at the start, as many as have room; sometimes on a node that is gone."""
    free = {n.name: n.capacity for n in made.nodes}
    running: list[Running] = []
    jobs = list(made.jobs)
    for i, j in enumerate(jobs):
        if not j.modes or isinstance(j.need, Demand) or rng.random() < 0.4:
            continue
        number = rng.randrange(len(j.modes))
        nodes = _room(rng, free, made, j.modes[number])
        if nodes:
            done = rng.choice([0.2, 0.4, 0.5])
            lost = rng.choice([0.0, 0.1, 0.2, done])
            if done >= j.need.amount:  # of little work, half is done
                done, lost = j.need.amount / 2, min(lost, j.need.amount / 2)
            running.append(
                Running(
                    job=j.name,
                    mode=number,
                    nodes=nodes,
                    work_done=done,
                    work_since_checkpoint=lost,
                )
            )
            jobs[i] = replace(
                j,
                release=0,
                preemptible=j.preemptible and rng.random() < 0.7,
                interruption=replace(j.interruption, restart_seconds=rng.choice([0, 600, 1800])),
            )
    return replace(made, running=tuple(running), jobs=tuple(jobs))


def _room(rng: random.Random, free: dict[str, Amounts], made: Problem, of: Mode) -> tuple[str, ...]:
    """A node for each replica, each with room for it, which is taken; none if they do not fit.

    None either for what takes less than a GPU.
    """
    if of.amounts.mig or of.amounts.gpu_milli % 1000:
        return ()
    nodes = [n.name for n in made.nodes if n.pool == of.pool]
    rng.shuffle(nodes)
    found: list[str] = []
    left = dict(free)
    for name in nodes:
        while len(found) < of.replicas and _fits(left[name], of.amounts):
            found.append(name)
            left[name] = _less(left[name], of.amounts)
            if of.spread:
                break
    together = not of.together or len(set(found)) == 1
    if len(found) < of.replicas or not together:
        return ()
    free.update(left)
    return tuple(found)


def _fits(free: Amounts, taken: Amounts) -> bool:
    return all(getattr(free, what) >= getattr(taken, what) for what in WHAT)


def _less(free: Amounts, taken: Amounts) -> Amounts:
    return replace(free, **{what: getattr(free, what) - getattr(taken, what) for what in WHAT})


def _random_pool(rng: random.Random, name: str, slots: int, timed: bool, most: int = 3) -> Pool:
    nodes, gpus = rng.choice([(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 1), (1, 4)])
    nodes = min(nodes, most)
    usd = round(rng.uniform(0.5, 6.0), 2)
    billing = rng.choice([Billing.GPU, Billing.GPU, Billing.NODE, Billing.NODE, Billing.SUNK])
    windows = _random_windows(rng, nodes, slots)
    times: tuple[float, ...] = ()
    if timed and rng.random() < 0.3:
        cut = rng.randint(1, slots - 1)
        windows = windows or ((0, cut, nodes), (cut, slots, nodes))
        times = (1.0, *(rng.choice([0.4, 1.0, 2.5]) for _ in windows[1:]))
    return pool(
        name,
        nodes=nodes,
        gpus=gpus,
        usd=usd,
        billing=billing,
        slots=slots,
        windows=windows,
        times=times,
        cpus=rng.choice([2, 3, 4]),
        gib=rng.choice([2, 3, 4]),
        startup_seconds=rng.choice([0, 0, 600, 3600]),
        accelerator=rng.choice(["a", "b"]),
        levels=(RACK,) if rng.random() < 0.6 else (),
        gpu_gib=4,
        mig=GEOMETRIES if rng.random() < 0.4 else (),
    )


def _random_windows(rng: random.Random, nodes: int, slots: int) -> tuple[tuple[int, int, int], ...]:
    """Nothing (always there), some nodes that leave or come, or maintenance in the middle."""
    fewer = rng.randint(0, nodes - 1)
    cut, back = sorted(rng.sample(range(1, slots), 2))
    shapes: list[tuple[tuple[int, int, int], ...]] = [
        ((0, cut, nodes), (cut, slots, fewer)),
        ((0, cut, fewer), (cut, slots, nodes)),
        ((0, cut, nodes), (cut, back, fewer), (back, slots, nodes)),
    ]
    return rng.choice(shapes) if rng.random() < 0.4 else ()


def _random_queues(rng: random.Random, pools: tuple[Pool, ...]) -> tuple[Queue, ...]:
    if rng.random() < 0.4:
        return ()
    root = Queue(
        name="root", budget_usd_per_month=rng.choice([None, *(round(rng.uniform(1, 12), 2),) * 2])
    )
    accelerator = rng.choice(pools).accelerator
    limit = ((accelerator, rng.randint(1, 2)),) if rng.random() < 0.7 else ()
    return (root, Queue(name="team", parent="root", limit=limit))


def _random_job(
    rng: random.Random, i: int, pools: tuple[Pool, ...], slots: int, queues: tuple[Queue, ...]
) -> Job:
    release = rng.choice([0, 0, 0, rng.randint(0, slots - 1)])
    service = rng.random() < 0.25
    modes = tuple(
        _random_mode(rng, p, service) for p in pools for _ in range(rng.choice([0, 1, 1, 2]))
    )
    fields: dict[str, object] = {
        "release": release,
        "deadline": rng.choice([slots, slots, rng.randint(release + 1, slots)]),
        "unplaced_usd": round(rng.choice([rng.uniform(1, 10), rng.uniform(8, 90)]), 2),
        "tier": rng.choice([0, 0, 0, 1, 2]),
        "required": rng.random() < 0.06,
        "queue": rng.choice(["", "team", "team", "root"]) if queues else "",
        "max_cost_usd": rng.choice([None, None, None, None, round(rng.uniform(1, 20), 2)]),
    }
    if service:
        demand = tuple(float(rng.randint(0, 3)) for _ in range(slots))
        fields["need"] = Demand(per_slot=demand, min_replicas=rng.randint(0, 1))
        fields["mixes"] = _mixes(modes)
    elif rng.random() < 0.4:
        fields["due"] = rng.randint(release, slots)
        fields["lateness_usd_per_hour"] = round(rng.uniform(0.1, 5), 2)
    return job(f"j{i}", *modes, slots=slots, **fields)


def _mixes(modes: tuple[Mode, ...]) -> tuple[Mix, ...]:
    """One replica of a mode beside one of another pool."""
    pairs = (
        (a, b) for a, b in permutations(range(len(modes)), 2) if modes[a].pool != modes[b].pool
    )
    return tuple(Mix(base=a, replicas=1, rest=b) for a, b in islice(pairs, 2))


def _random_mode(rng: random.Random, of: Pool, service: bool) -> Mode:
    part = rng.random()
    profile = rng.choice(["3g.40gb", "3g.40gb", "2g.20gb", "1g.10gb"])
    share = rng.choice([250, 400, 500, 600])
    return mode(
        of,
        hours=rng.choice([0.5, 1.0, 1.0, 1.5, 2.0, 2.7, 3.0]),
        replicas=1 if service else rng.choice([1, 1, 2, 2, 3]),
        gpus=rng.choice([1, 1, 2]),
        milli=share if part < 0.25 else 0,
        gpu_gib=rng.choice([0, 1, 2, 3]) if part < 0.25 else 0,
        profile=profile if part > 0.45 and of.mig_geometries else "",
        cpus=rng.choice([0, 0, 1, 2]),
        gib=rng.choice([0, 0, 1, 2]),
        usd=round(rng.uniform(0.2, 1.0), 2) if of.billing is Billing.SUNK else None,
        serves=float(rng.choice([1, 1.5, 2])) if service else None,
        spread=rng.choice([HOSTNAME, RACK]) if rng.random() < 0.25 else "",
        together=rng.choice([HOSTNAME, RACK]) if rng.random() < 0.3 else "",
    )


def _random_dependencies(rng: random.Random, jobs: tuple[Job, ...]) -> tuple[Job, ...]:
    batch = [j for j in jobs if isinstance(j.need, Work)]
    if len(batch) < 2 or rng.random() < 0.6:
        return jobs
    first, then = rng.sample(batch, 2)
    return tuple(replace(j, after=(first.name,)) if j is then else j for j in jobs)
