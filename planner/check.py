"""Is this plan true? Plain arithmetic over the question and the answer.

Nothing here is shared with the solver or with `cost`: what they compute is computed again. Each
violation is one sentence that names the job, node, queue or sum at fault.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise

from planner.check_nodes import WHAT, at_starts, is_part, nodes
from planner.plan import Placement, Plan, Segment, Status
from planner.problem import (
    GPU_MILLI,
    Billing,
    Demand,
    Job,
    Mix,
    Mode,
    Node,
    Pool,
    Problem,
    Window,
    Work,
)

HOSTNAME = "kubernetes.io/hostname"
CENT = 0.01


def violations(problem: Problem, plan: Plan) -> tuple[str, ...]:
    """Everything in ``plan`` that is not so; empty for a true plan."""
    if wrong := tuple(_references(problem, plan)):
        return wrong  # what follows may look names up
    return tuple(
        message
        for family in (
            _accounted,
            _jobs,
            _dependencies,
            nodes,
            _queue_limits,
            _kept_back,
            _budgets,
            _tiers,
            _sums,
        )
        for message in family(problem, plan)
    )


def _references(problem: Problem, plan: Plan) -> Iterator[str]:
    there = {pool.name: {n.name for n in problem.nodes_of(pool.name)} for pool in problem.pools}
    for s in plan.segments:
        job = problem.job_by_name.get(s.job)
        if job is None:
            yield f"segment of {s.job}: no such job"
        elif not 0 <= s.mode < len(job.modes):
            yield f"segment of {s.job}: no mode {s.mode}"
        elif not 0 <= s.start < s.end <= problem.grid.slots:
            yield f"segment of {s.job}: [{s.start}, {s.end}) is not a stretch of the grid"
        else:
            named = {p.node for p in s.placement}
            if len(named) < len(s.placement) or not named <= there[job.modes[s.mode].pool]:
                yield from _placement_references(problem, s, job.modes[s.mode])
    for u in plan.unplaced:
        if u.job not in problem.job_by_name:
            yield f"unplaced {u.job}: no such job"


def _placement_references(problem: Problem, s: Segment, mode: Mode) -> Iterator[str]:
    for place in s.placement:
        node = problem.node_by_name.get(place.node)
        if node is None:
            yield f"segment of {s.job}: no node {place.node}"
        elif node.pool != mode.pool:
            yield f"segment of {s.job}: node {place.node} is of pool {node.pool}, not {mode.pool}"
    if len({p.node for p in s.placement}) != len(s.placement):
        yield f"segment of {s.job}: a node stands twice in its placement"


def _accounted(problem: Problem, plan: Plan) -> Iterator[str]:
    placed = {s.job for s in plan.segments}
    left_out = Counter(u.job for u in plan.unplaced)
    for name in sorted(left_out):
        if left_out[name] > 1:
            yield f"{name}: left out twice"
        if name in placed:
            yield f"{name}: both placed and left out"
    for job in problem.jobs:
        if job.name not in placed and job.name not in left_out:
            yield f"{job.name}: neither placed nor left out"
        given_up = plan.status in (Status.INFEASIBLE, Status.TIMEOUT)
        if job.required and job.name in left_out and not given_up:
            yield f"{job.name}: required, yet left out of a plan called {plan.status.value}"


def _by_job(plan: Plan) -> dict[str, list[Segment]]:
    found: dict[str, list[Segment]] = defaultdict(list)
    for s in sorted(plan.segments, key=lambda s: (s.job, s.start)):
        found[s.job].append(s)
    return found


def _jobs(problem: Problem, plan: Plan) -> Iterator[str]:
    for name, segments in _by_job(plan).items():
        job = problem.job_by_name[name]
        if segments[0].start < job.release and not _kept(problem, segments[0]):
            yield f"{name}: starts at slot {segments[0].start}, before its release {job.release}"
        if (end := max(s.end for s in segments)) > job.deadline:
            yield f"{name}: ends at slot {end}, after its deadline {job.deadline}"
        for a, b in (pair for strand in _strands(job, segments) for pair in pairwise(strand)):
            if b.start < a.end:
                yield f"{name}: two segments overlap at slot {b.start}"
            if _stops(a, b) and isinstance(job.need, Work) and not job.may_stop:
                yield f"{name}: may not be interrupted, but stops at slot {a.end}"
        if isinstance(job.need, Work) and _changes(problem, job, segments) > job.switches:
            yield f"{name}: changes mode more often than {job.switches} times"
        for s in segments:
            yield from _segment(problem, job, s)
        yield from (
            _work(problem, job, segments)
            if isinstance(job.need, Work)
            else _demand(problem, job, job.need, segments)
        )


def _strands(job: Job, segments: list[Segment]) -> list[list[Segment]]:
    """What runs one after the other: all of a batch job, the segments of each mode of a service."""
    if isinstance(job.need, Work):
        return [segments]
    return [[s for s in segments if s.mode == mode] for mode in {s.mode for s in segments}]


def _stops(a: Segment, b: Segment) -> bool:
    """Whether a job that holds ``a`` and then ``b`` stops between them."""
    return a.end < b.start or a.placement != b.placement or a.mode != b.mode


def _kept(problem: Problem, s: Segment) -> bool:
    """Whether a job that runs at the grid's start goes on in ``s`` as it is."""
    running = problem.running_by_job.get(s.job)
    if running is None or s.start or s.mode != running.mode:
        return False
    return Counter(running.nodes) == Counter({p.node: p.replicas for p in s.placement})


def _changes(problem: Problem, job: Job, segments: list[Segment]) -> int:
    """How often the job changes its mode, counted from the one that it runs in already."""
    modes = [s.mode for s in segments]
    running = problem.running_by_job.get(job.name)
    if running is not None and running.work_since_checkpoint < running.work_done:
        modes.insert(0, running.mode)  # one that has lost all its work begins in any mode
    return sum(a != b for a, b in pairwise(modes))


def _segment(problem: Problem, job: Job, s: Segment) -> Iterator[str]:
    mode = job.modes[s.mode]
    pool = problem.pool_by_name[mode.pool]
    replicas = [p.replicas for p in s.placement]
    if sum(replicas) != s.replicas:
        yield f"{job.name}: {s.replicas} replicas, but its nodes hold another number"
    if min(replicas, default=1) < 1:
        yield f"{job.name}: a node of its placement holds no replica"
    launched = pool.billing is not Billing.SUNK and isinstance(job.need, Work)
    early = s.start * problem.grid.slot_seconds < pool.startup_seconds
    if launched and early and not _kept(problem, s):
        yield f"{job.name}: starts before a node of {pool.name} can be ready"
    if pool.interruptions_per_hour > 0 and not job.preemptible:
        yield f"{job.name}: may not be interrupted, but {pool.name} can be"
    yield from _together(problem, job, mode, s)


def _together(problem: Problem, job: Job, mode: Mode, s: Segment) -> Iterator[str]:
    levels = problem.pool_by_name[mode.pool].topology_levels

    def domain(node: str, level: str) -> tuple[str, ...]:
        """Its name and those of all that hold it; empty where it is not known."""
        if level == HOSTNAME:
            return (node,)
        return problem.node_by_name[node].topology[levels.index(level) :] if level in levels else ()

    if mode.together and mode.together_required:
        domains = {domain(p.node, mode.together) for p in s.placement}
        if len(domains) > 1:
            yield f"{job.name}: its gang is in two domains of {mode.together}"
        elif () in domains:
            yield f"{job.name}: its gang is on a node of no known {mode.together}"
    if mode.spread:
        held: dict[tuple[str, ...], int] = defaultdict(int)
        for p in s.placement:
            held[domain(p.node, mode.spread)] += p.replicas
        if () in held:
            yield f"{job.name}: spread to a node of no known {mode.spread}"
        elif any(n > 1 for n in held.values()):
            yield f"{job.name}: two replicas share a {mode.spread}"


def _work(problem: Problem, job: Job, segments: list[Segment]) -> Iterator[str]:
    assert isinstance(job.need, Work)
    todo, lost = job.need.amount, 0.0
    running = problem.running_by_job.get(job.name)
    kept = _kept(problem, segments[0])
    if running is not None:
        lost = 0.0 if kept else running.work_since_checkpoint
        todo += lost - running.work_done
        if not kept and not job.preemptible and _could_stay(problem, job):
            yield f"{job.name}: may not be interrupted, but is moved from where it runs"
    done = math.fsum(s.work for s in segments)
    if not math.isclose(done, todo, rel_tol=1e-6, abs_tol=1e-9):
        yield f"{job.name}: does {done:g} of {todo:g} {job.need.unit}"
    again = math.fsum(s.redone_work for s in segments)
    if not math.isclose(again, lost, rel_tol=1e-6, abs_tol=1e-9):
        yield f"{job.name}: does {again:g} {job.need.unit} again, {lost:g} are lost"
    yield from _brought(problem, job, segments)
    before: Segment | None = None
    for s, behind in zip(segments, [*segments[1:], None], strict=True):
        mode = job.modes[s.mode]
        if s.replicas != mode.replicas:
            yield f"{job.name}: runs {s.replicas} replicas of a gang of {mode.replicas}"
        restarts = _stops(before, s) if before is not None else running is not None and not kept
        saves = behind is not None and _stops(s, behind)
        yield from _held(problem, job, s, restarts=restarts, saves=saves)
        before = s


def _could_stay(problem: Problem, job: Job) -> bool:
    """Whether the nodes that the job runs on stay there for all that it has to do."""
    running = problem.running_by_job[job.name]
    mode = job.modes[running.mode]
    assert isinstance(job.need, Work)
    hours = _hours(job.need.amount - running.work_done, mode.replicas, mode)
    end = max(1, math.ceil(hours / (problem.grid.slot_seconds / 3600) - 1e-6))
    windows = problem.pool_by_name[mode.pool].windows
    there = all(
        (node := problem.node_by_name.get(name)) is not None
        and node.pool == mode.pool
        and not node.cordoned
        and not any(d.unhealthy for d in node.devices)
        and not any(w.start < end and node.index >= w.nodes for w in windows)
        for name in running.nodes
    )
    if not there or end > min(job.deadline, problem.grid.slots):
        return False
    places = tuple(Placement(node=n, replicas=r) for n, r in Counter(running.nodes).items())
    as_it_is = Segment(
        job=job.name,
        mode=running.mode,
        replicas=mode.replicas,
        start=0,
        end=end,
        work=0.0,
        placement=places,
    )
    return not any(_together(problem, job, mode, as_it_is))


def _held(problem: Problem, job: Job, s: Segment, *, restarts: bool, saves: bool) -> Iterator[str]:
    """What a segment does with the time that it holds its nodes."""
    mode, stop = job.modes[s.mode], job.interruption
    due = (stop.restart_seconds * restarts, stop.save_seconds * saves)
    for what, said, seconds in zip(
        ("restore", "save"), (s.restart_seconds, s.save_seconds), due, strict=True
    ):
        if not math.isclose(said, seconds, abs_tol=1e-6):
            yield f"{job.name}: {said:g} s to {what} from slot {s.start}, {seconds:g} needed"
    hours = _hours(s.work, s.replicas, mode) + (s.restart_seconds + s.save_seconds) / 3600
    has = (s.end - s.start) * problem.grid.slot_seconds / 3600
    if hours > has * (1 + 2e-6) + 1e-9:
        yield f"{job.name}: {hours:g} h of work do not fit its {s.end - s.start} slots"
    elif saves and hours < has * (1 - 2e-6) - 1e-9:
        yield f"{job.name}: stops at slot {s.end}, yet has worked {hours:g} of {has:g} h there"
    if s.redone_work > s.work * (1 + 1e-9):
        yield f"{job.name}: does more work again than it does from slot {s.start}"


def _hours(work: float, replicas: int, mode: Mode) -> float:
    rate = replicas * mode.work_per_replica_hour
    return work / rate if rate > 0 else math.inf


def _demand(problem: Problem, job: Job, need: Demand, segments: list[Segment]) -> Iterator[str]:
    end = min(job.deadline, problem.grid.slots)
    covered = {t for s in segments for t in range(s.start, s.end)}
    if covered != set(range(job.release, end)):
        yield f"{job.name}: a service that is not up in every slot from {job.release} to {end}"
        return
    if len({s.mode for s in segments}) > 1 and not any(_mixed(m, segments) for m in job.mixes):
        yield f"{job.name}: runs in modes at once that are no mix of its own"
    at = {t: [s for s in segments if s.start <= t < s.end] for t in range(job.release, end)}
    able = {t: math.fsum(_carries(job, s) for s in beside) for t, beside in at.items()}
    for s in segments:
        for t in range(s.start, s.end):
            replicas = sum(other.replicas for other in at[t])
            asked = need.per_slot[t]
            if able[t] < asked * (1 - 1e-6) or replicas < need.min_replicas:
                yield f"{job.name}: {replicas} replicas do not carry {asked:g} {need.unit} an hour"
                break
        parts = {t: _carries(job, s) / (able[t] or 1.0) for t in range(s.start, s.end)}
        asked = math.fsum(part * need.per_slot[t] for t, part in parts.items())
        asked *= problem.grid.slot_seconds / 3600
        if not math.isclose(s.work, asked, rel_tol=1e-6, abs_tol=1e-6):
            yield f"{job.name}: a segment serves {s.work:g} where {asked:g} are asked"
    for strand in _strands(job, segments):
        for a, b in pairwise(strand):
            yield from _stays(job, a, b)
    yield from _brought(problem, job, segments)


def _brought(problem: Problem, job: Job, segments: list[Segment]) -> Iterator[str]:
    """Data are brought to each pool with the first start there, unless the job runs there."""
    running = problem.running_by_job.get(job.name)
    there = {job.modes[running.mode].pool} if running is not None else set()
    for s in segments:  # in order of start
        mode = job.modes[s.mode]
        usd = 0.0 if mode.pool in there else mode.egress_usd
        there.add(mode.pool)
        if not math.isclose(s.egress_usd, usd, rel_tol=1e-9, abs_tol=1e-6):
            said, due = f"${s.egress_usd:,.2f}", f"${usd:,.2f}"
            yield f"{job.name}: {said} for its data in {mode.pool} from slot {s.start}, {due} due"


def _carries(job: Job, s: Segment) -> float:
    return s.replicas * job.modes[s.mode].work_per_replica_hour


def _mixed(mix: Mix, segments: list[Segment]) -> bool:
    """Whether a service runs in a mix: so many replicas of its base throughout, and its rest."""
    base = [s for s in segments if s.mode == mix.base]
    throughout = {t for s in segments for t in range(s.start, s.end)}
    return (
        {s.mode for s in segments} == {mix.base, mix.rest}
        and {s.replicas for s in base} == {mix.replicas}
        and {t for s in base for t in range(s.start, s.end)} == throughout
    )


def _stays(job: Job, a: Segment, b: Segment) -> Iterator[str]:
    """Growing starts replicas and shrinking stops some; neither moves one."""
    if a.end < b.start:
        return
    was = {p.node: p.replicas for p in a.placement}
    now = {p.node: p.replicas for p in b.placement}
    change = [now.get(n, 0) - was.get(n, 0) for n in was.keys() | now.keys()]
    if min(change, default=0) < 0 < max(change, default=0):
        yield f"{job.name}: moves a replica at slot {b.start}"


def _dependencies(problem: Problem, plan: Plan) -> Iterator[str]:
    waits = any(job.after for job in problem.jobs)
    by_job = _by_job(plan) if waits else {}
    for name, segments in by_job.items():
        for before in problem.job_by_name[name].after:
            if before not in by_job:
                yield f"{name}: runs, but {before}, which it depends on, does not"
            elif max(s.end for s in by_job[before]) > segments[0].start:
                yield f"{name}: starts before {before} has ended"


# -- queues --------------------------------------------------------------------------------------


def _queue_limits(problem: Problem, plan: Plan) -> Iterator[str]:
    held: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
    for s, above in _with_queues(problem, plan):
        accelerator, milli = _takes(problem, s)
        for name in above:
            held[name, accelerator].append((s.start, s.end, milli))
    for queue in problem.queues:
        for accelerator, limit in queue.limit:
            for at, used in at_starts(held[queue.name, accelerator]):
                if used > limit * GPU_MILLI:
                    gpus = f"{used / GPU_MILLI:g}"
                    yield f"queue {queue.name}: {gpus} of {limit} {accelerator} at slot {at}"


def _takes(problem: Problem, s: Segment) -> tuple[str, int]:
    """The accelerator of a segment, and the thousandths of its GPUs that it holds."""
    mode = problem.job_by_name[s.job].modes[s.mode]
    accelerator = problem.pool_by_name[mode.pool].accelerator
    return accelerator, s.replicas * _milli(problem, mode)


def _kept_back(problem: Problem, plan: Plan) -> Iterator[str]:
    """GPUs of queues that do not lend them, in the hands of others.

    A queue holds what it uses and what queues under it hold, or what it keeps back if that is more.
    What all hold at once, roots and jobs without a queue, is no more than there is; where more is
    kept back than there is, each keeps back its part of that.
    """
    for accelerator in sorted({pool.accelerator for pool in problem.pools}):
        kept = _reserves(problem, accelerator)
        if not kept:
            continue
        held = [
            (s, milli)
            for s in plan.segments
            for a, milli in [_takes(problem, s)]
            if a == accelerator
        ]
        edges = {w.start for pool in problem.pools for w in pool.windows}
        for at in sorted(edges | {s.start for s, _ in held}):
            used: dict[str, int] = defaultdict(int)  # by queue, not counting those under it
            for s, milli in held:
                if s.start <= at < s.end:
                    used[problem.job_by_name[s.job].queue] += milli
            wanted = _held_by_roots(problem, kept, {})
            have = _gpus_there(problem, accelerator, at) * GPU_MILLI
            share = {name: milli * min(have, wanted) // wanted for name, milli in kept.items()}
            total = _held_by_roots(problem, share, used)
            if total > have:
                gpus = f"{(total - have) / GPU_MILLI:g} {accelerator}"
                yield f"{gpus} at slot {at} are taken of what {', '.join(kept)} do not lend"


def _reserves(problem: Problem, accelerator: str) -> dict[str, int]:
    """Thousandths of GPUs that each queue keeps for itself: guaranteed, and not to be lent."""
    found = {}
    for queue in problem.queues:
        gpus = dict(queue.guaranteed).get(accelerator, 0)
        lent = gpus if queue.lendable is None else dict(queue.lendable).get(accelerator, gpus)
        if lent < gpus:
            found[queue.name] = (gpus - lent) * GPU_MILLI
    return found


def _held_by_roots(problem: Problem, kept: dict[str, int], used: dict[str, int]) -> int:
    """Thousandths that roots and jobs without a queue hold."""

    def holds(name: str) -> int:
        under = sum(holds(q.name) for q in problem.queues if q.parent == name)
        return max(kept.get(name, 0), used.get(name, 0) + under)

    roots = [q.name for q in problem.queues if q.parent not in problem.queue_by_name]
    loose = sum(milli for name, milli in used.items() if name not in problem.queue_by_name)
    return loose + sum(map(holds, roots))


def _gpus_there(problem: Problem, accelerator: str, slot: int) -> int:
    """GPUs of nodes that are there and may be used."""
    return sum(
        node.capacity.gpu_milli // GPU_MILLI - sum(bool(d.unhealthy) for d in node.devices)
        for node in problem.nodes
        for pool in [problem.pool_by_name[node.pool]]
        if pool.accelerator == accelerator and not node.cordoned
        if any(w.start <= slot < w.end and node.index < w.nodes for w in pool.windows)
    )


def _milli(problem: Problem, mode: Mode) -> int:
    """Thousandths of a GPU that a replica counts for; a MIG instance by its compute slices."""
    if not mode.amounts.mig:
        return mode.amounts.gpu_milli

    def slices(profile: str) -> int:
        return int(profile[: profile.index("g")])

    geometries = problem.pool_by_name[mode.pool].mig_geometries
    most = max((sum(slices(profile) for profile in g) for g in geometries), default=1)
    taken = sum(slices(profile) * count for profile, count in mode.amounts.mig)
    return GPU_MILLI * taken // most


def _with_queues(problem: Problem, plan: Plan) -> Iterator[tuple[Segment, set[str]]]:
    """Each segment with the queue of its job and all that are above it."""
    above = {queue: _path(problem, queue) for queue in {job.queue for job in problem.jobs}}
    for s in plan.segments:
        yield s, above[problem.job_by_name[s.job].queue]


def _path(problem: Problem, queue: str) -> set[str]:
    path: set[str] = set()
    while queue in problem.queue_by_name and queue not in path:
        path.add(queue)
        queue = problem.queue_by_name[queue].parent
    return path


def _price(pool: Pool, w: Window) -> float:
    """What a node-hour of work costs."""
    sunk = pool.billing is Billing.SUNK
    return w.marginal_usd_per_node_hour if sunk else w.usd_per_node_hour


def _priced(problem: Problem, pool: Pool, begin: float, end: float) -> float:
    """Hours from ``begin`` to ``end`` (slots), each times its price over the first window's."""
    if end <= begin:
        return 0.0
    first, total = _price(pool, pool.windows[0]), 0.0
    for w in pool.windows:
        ratio = _price(pool, w) / first if first else 1.0
        total += max(0.0, min(end, w.end) - max(begin, w.start)) * ratio
    return total * problem.grid.slot_seconds / 3600


def _parts(problem: Problem, s: Segment, first: int, last: int) -> tuple[float, float]:
    """(money, moving): the segment's shares from slot ``first`` to ``last``."""
    job = problem.job_by_name[s.job]
    mode = job.modes[s.mode]
    slot_hours = problem.grid.slot_seconds / 3600
    hours = (s.end - s.start) * slot_hours
    if isinstance(job.need, Work):
        hours = _hours(s.work, s.replicas, mode)
    works = s.start + s.restart_seconds / 3600 / slot_hours
    saves = works + hours / slot_hours
    ends = saves + s.save_seconds / 3600 / slot_hours
    pool = problem.pool_by_name[mode.pool]
    usd = s.replicas * mode.usd_per_replica_hour
    restoring = _priced(problem, pool, max(s.start, first), min(works, last)) * usd
    working = _priced(problem, pool, max(works, first), min(saves, last)) * usd
    saving = _priced(problem, pool, max(saves, first), min(ends, last)) * usd
    again = s.redone_work / s.work if s.work else 0.0
    return working * (1 - again), restoring + saving + working * again


def _segment_usd(problem: Problem, s: Segment, first: int, last: int) -> float:
    """What the segment costs its job from slot ``first`` to ``last``."""
    brought = s.egress_usd if first <= s.start < last else 0.0
    return math.fsum((*_parts(problem, s, first, last), brought))


def _budgets(problem: Problem, plan: Plan) -> Iterator[str]:
    for queue in problem.queues:
        if queue.budget_usd_per_month is None:
            continue
        mine = [s for s, above in _with_queues(problem, plan) if queue.name in above]
        for month, first, last in problem.grid.months():
            usd = math.fsum(_segment_usd(problem, s, first, last) for s in mine)
            if usd > queue.budget_usd_per_month + CENT:
                most = queue.budget_usd_per_month
                yield f"queue {queue.name}: ${usd:,.2f} in {month}, budget ${most:,.2f}"
    capped = {job.name: job.max_cost_usd for job in problem.jobs if job.max_cost_usd is not None}
    for name, segments in _by_job(plan).items() if capped else ():
        allowed = capped.get(name, math.inf)
        usd = math.fsum(_segment_usd(problem, s, 0, problem.grid.slots) for s in segments)
        if usd > allowed + CENT:
            yield f"{name}: ${usd:,.2f}, allowed ${allowed:,.2f}"


# -- tiers ---------------------------------------------------------------------------------------


def _tiers(problem: Problem, plan: Plan) -> Iterator[str]:
    """A left-out job that would fit as it stands once lower tiers were dropped.

    Other jobs stay where the plan has them, so this finds what is plainly wrong and no more; only
    batch jobs without dependencies, limits or budgets are judged, none where GPUs are kept back.
    What a guarantee covers is above all tiers.
    """
    bound_queues = {q.name for q in problem.queues if q.limit or q.budget_usd_per_month is not None}
    if any(_reserves(problem, pool.accelerator) for pool in problem.pools):
        return
    by_tier: dict[tuple[bool, int], list[Job]] = defaultdict(list)
    for left in plan.unplaced:
        job = problem.job_by_name[left.job]
        bound = _path(problem, job.queue) & bound_queues
        runs = left.job in problem.running_by_job
        if isinstance(job.need, Work) and not job.after and not bound and not runs:
            by_tier[_tier(job)].append(job)
    for tier, jobs in sorted(by_tier.items(), reverse=True):
        lower = _droppable(problem, tier)
        keep = [s for s in plan.segments if s.job not in lower]
        if len(keep) == len(plan.segments):
            continue
        free = _free(problem, keep)
        for job in jobs:
            pools = (m.pool for m in job.modes if _would_fit(problem, job, m, free))
            if (name := next(pools, None)) is not None:
                where = f"{name} once lower priorities are dropped"
                yield f"{job.name}: left out, though it fits {where}"


def _tier(job: Job) -> tuple[bool, int]:
    return job.guarantee != "", job.tier


def _droppable(problem: Problem, tier: tuple[bool, int]) -> set[str]:
    """Jobs of tiers below that nothing kept waits for."""
    kept = {o.name for o in problem.jobs if _tier(o) >= tier or o.required}
    waiting = list(kept)
    while waiting:
        before = [b for b in problem.job_by_name[waiting.pop()].after if b not in kept]
        kept.update(before)
        waiting += before
    return {o.name for o in problem.jobs} - kept


Stretch = tuple[int, int, list[int]]  # (start, end, what is free of each of `WHAT`)


def _free(problem: Problem, keep: list[Segment]) -> dict[str, list[list[Stretch]]]:
    """By pool, the stretches for which each usable node is there; of those that hold whole GPUs."""
    held: dict[str, list[tuple[Segment, int]]] = defaultdict(list)
    for s in keep:
        for p in s.placement:
            held[p.node].append((s, p.replicas))
    found: dict[str, list[list[Stretch]]] = defaultdict(list)
    for node in problem.nodes:
        parts = any(is_part(problem.job_by_name[s.job].modes[s.mode]) for s, _ in held[node.name])
        if not node.cordoned and not parts:
            found[node.pool].append(list(_stretches(problem, node, held[node.name])))
    return found


def _stretches(problem: Problem, node: Node, held: list[tuple[Segment, int]]) -> Iterator[Stretch]:
    windows = problem.pool_by_name[node.pool].windows
    change = {at: [0] * len(WHAT) for at in (*(w.start for w in windows), problem.grid.slots)}
    for s, replicas in held:
        amounts = problem.job_by_name[s.job].modes[s.mode].amounts
        for at, sign in ((s.start, -1), (s.end, 1)):
            row = change.setdefault(at, [0] * len(WHAT))
            for k, what in enumerate(WHAT):
                row[k] += sign * replicas * getattr(amounts, what)
    free = [getattr(node.capacity, what) for what in WHAT]
    free[0] -= GPU_MILLI * sum(bool(d.unhealthy) for d in node.devices)
    for start, end in pairwise(sorted(change)):
        free = [f + c for f, c in zip(free, change[start], strict=True)]
        if any(w.start <= start < w.end and node.index < w.nodes for w in windows):
            yield start, end, free


def _would_fit(
    problem: Problem, job: Job, mode: Mode, free: dict[str, list[list[Stretch]]]
) -> bool:
    assert isinstance(job.need, Work)
    pool = problem.pool_by_name[mode.pool]
    hours = _hours(job.need.amount, mode.replicas, mode)
    worth = hours * mode.replicas * mode.usd_per_replica_hour
    worth *= max(_price(pool, w) for w in pool.windows) / (_price(pool, pool.windows[0]) or 1.0)
    worth += mode.egress_usd
    too_dear = job.max_cost_usd is not None and worth > job.max_cost_usd
    if too_dear or worth >= job.unplaced_usd or mode.together_required or (job.due is not None):
        return False
    if mode.spread not in ("", HOSTNAME) or is_part(mode):
        return False
    if math.isinf(hours) or mode.amounts.gpu_memory_bytes > pool.capacity.gpu_memory_bytes:
        return False
    if pool.interruptions_per_hour > 0 and not job.preemptible:
        return False
    length = max(1, math.ceil(hours / (problem.grid.slot_seconds / 3600) - 1e-6))
    ready = (
        0 if pool.billing is Billing.SUNK else -(-pool.startup_seconds // problem.grid.slot_seconds)
    )
    first, last = max(job.release, ready), min(job.deadline, problem.grid.slots) - length
    change: dict[int, int] = defaultdict(int)  # replicas that may start, by slot
    for stretches in free[pool.name]:
        for start, end in _rooms(mode, stretches):
            if max(start, first) <= min(end - length, last):
                change[max(start, first)] += 1
                change[min(end - length, last) + 1] -= 1
    return any(n >= mode.replicas for n in accumulate(change[at] for at in sorted(change)))


def _rooms(mode: Mode, stretches: list[Stretch]) -> Iterator[tuple[int, int]]:
    """For each replica that a node has room for: from when to when."""
    takes = [getattr(mode.amounts, what) for what in WHAT]
    open_: list[int] = []  # since when there is room for a first replica, a second, ...
    until = 0
    for start, end, free in stretches:
        most = 1 if mode.spread else mode.replicas
        room = min([most, *(f // t for f, t in zip(free, takes, strict=True) if t)])
        while open_ and (start > until or len(open_) > max(0, room)):
            yield open_.pop(), until
        open_ += [start] * (room - len(open_))
        until = end
    yield from ((start, until) for start in open_)


# -- sums ----------------------------------------------------------------------------------------


def _sums(problem: Problem, plan: Plan) -> Iterator[str]:
    parts = [_parts(problem, s, 0, problem.grid.slots) for s in plan.segments]
    money = math.fsum(_money(problem, plan.segments, parts))
    moving = math.fsum(_moving(problem, plan.segments, parts))
    late = math.fsum(_lateness(problem, plan.segments))
    left = math.fsum(problem.job_by_name[u.job].unplaced_usd for u in plan.unplaced)
    flops = math.fsum(
        (s.work - s.redone_work) * problem.job_by_name[s.job].modes[s.mode].flops_per_work
        for s in plan.segments
    )
    for what, said, found in (
        ("money", plan.costs.money, money),
        ("lateness", plan.costs.lateness, late),
        ("not running", plan.costs.not_running, left),
        ("moving", plan.costs.moving, moving),
        ("useful FLOPs", plan.useful_flops, flops),
    ):
        if not math.isclose(said, found, rel_tol=1e-9, abs_tol=1e-6):
            yield f"{what}: the plan says {said:,.6f}, its segments add up to {found:,.6f}"
    objective = money + moving + late + left
    if not plan.bound.usd <= objective + 1e-6 * max(1.0, abs(objective)):  # nor is NaN a bound
        yield f"bound: {plan.bound.usd:,.6f} is above the objective {objective:,.6f}"


Parts = Iterable[tuple[float, float]]  # (money, moving) of each segment


def _money(problem: Problem, segments: Iterable[Segment], parts: Parts) -> Iterator[float]:
    busy: dict[str, set[int]] = defaultdict(set)
    for s, (money, _) in zip(segments, parts, strict=True):
        pool = problem.pool_by_name[problem.job_by_name[s.job].modes[s.mode].pool]
        if pool.billing is not Billing.NODE:
            yield money
            continue
        for p in s.placement:
            busy[p.node] |= set(range(s.start, s.end))
    for name, slots in busy.items():
        yield _node_bill(problem, problem.node_by_name[name], sorted(slots))


def _moving(problem: Problem, segments: Iterable[Segment], parts: Parts) -> Iterator[float]:
    for s, (_, moving) in zip(segments, parts, strict=True):
        pool = problem.pool_by_name[problem.job_by_name[s.job].modes[s.mode].pool]
        yield s.egress_usd
        if pool.billing is not Billing.NODE:
            yield moving


def _node_bill(problem: Problem, node: Node, slots: list[int]) -> float:
    """Pay the used slots; between two of them, the cheaper of keeping the node and launching it."""
    pool = problem.pool_by_name[node.pool]
    seconds = problem.grid.slot_seconds

    def usd(begin: float, end: float) -> float:
        """From second to second; before the first window its price counts."""
        return sum(
            max(0.0, min(end, w.end * seconds) - max(begin, w.start * seconds if i else -math.inf))
            / 3600
            * w.usd_per_node_hour
            for i, w in enumerate(pool.windows)
        )

    def there(slot: int) -> bool:
        return any(w.start <= slot < w.end and node.index < w.nodes for w in pool.windows)

    up = any(node.name in running.nodes for running in problem.running)
    total = 0.0
    for before, slot in pairwise([-1 if up else None, *slots]):
        assert slot is not None
        at = slot * seconds
        launch = usd(at - pool.startup_seconds, at)
        if before is not None and all(map(there, range(before + 1, slot))):
            launch = min(launch, usd((before + 1) * seconds, at))
        total += launch + usd(at, at + seconds)
    return total


def _lateness(problem: Problem, segments: Iterable[Segment]) -> Iterator[float]:
    ends: dict[str, int] = defaultdict(int)
    for s in segments:
        ends[s.job] = max(ends[s.job], s.end)
    for name, end in ends.items():
        job = problem.job_by_name[name]
        if job.due is not None:
            late = max(0, end - job.due) * problem.grid.slot_seconds / 3600
            yield late * job.lateness_usd_per_hour
