"""Impossible worlds, by plain arithmetic that shares nothing with the decision.

`faults(state)` names all that must never be: more held of a node, a GPU or a quota than there is, a
gang partly placed, a promise that overlaps with what somebody else has at that time, a job in a
phase that what it holds contradicts. `broken(before, after)` names steps that must never be taken.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from planner.problem import GPU_MILLI, Node, Queue
from scheduler.controller.state import HOLDING, Phase, State, Tracked

LEGAL = {
    Phase.WAITING: {Phase.WAITING, Phase.RESERVED, Phase.LAUNCHING, Phase.DONE, Phase.FAILED},
    Phase.RESERVED: {
        Phase.RESERVED,
        Phase.WAITING,
        Phase.SUSPENDED,
        Phase.LAUNCHING,
        Phase.DONE,
        Phase.FAILED,
    },
    Phase.SUSPENDED: {
        Phase.SUSPENDED,
        Phase.RESERVED,
        Phase.LAUNCHING,
        Phase.DONE,
        Phase.FAILED,
    },
}


def faults(state: State) -> list[str]:
    """What is impossible in a state, or nothing."""
    return [
        *_phases(state),
        *_gangs(state),
        *_nodes(state),
        *_limits(state),
        *_kept(state),
    ]


def faults_beside_what_runs(state: State) -> list[str]:
    """The same where the fleet or the queues may have changed under what is on its nodes.

    What is promised has to fit beside that; that by itself need not fit. What queues keep back is
    not looked at: it is kept of the nodes that are left, which what runs need not be on.
    """
    runs = replace(state, jobs={n: one for n, one in state.jobs.items() if one.phase in HOLDING})
    known = {*_nodes(runs), *_limits(runs), *_gangs(runs)}
    found = [*_phases(state), *_gangs(state), *_nodes(state), *_limits(state)]
    return [fault for fault in found if not _is_known(fault, known)]


def _is_known(fault: str, known: set[str]) -> bool:
    """Whether the fault is one of what runs: of the same slot and node, or of the same queue."""
    where = fault.split(" taken")[0].split(" has ")[0]
    return fault in known or any(k.startswith(where) for k in known)


def broken(before: State, after: State) -> list[str]:
    """What no decision may do from one state to the next."""
    found = []
    for name, new in after.jobs.items():
        old = before.jobs.get(name)
        if old is None or old.uid != new.uid:
            continue
        if new.phase not in LEGAL.get(old.phase, set(Phase)):
            found.append(f"{name} went from {old.phase} to {new.phase}")
        if new.attempt > old.attempt + 1 or new.attempt < old.attempt:
            found.append(f"{name} went from attempt {old.attempt} to {new.attempt}")
        both = old.phase in HOLDING and new.phase in HOLDING and old.attempt == new.attempt
        if both and old.scales:
            found += _moved(old, new)
        elif both and old.nodes != new.nodes:
            found.append(f"{name} changed its nodes while it had them")
        if old.phase in (Phase.DONE, Phase.FAILED) and new.phase is not old.phase:
            found.append(f"{name} came back from {old.phase}")
    return found


def _moved(old: Tracked, new: Tracked) -> Iterator[str]:
    """A service takes more nodes or gives some back; it never does both at once."""
    before = {p.node: p.replicas for p in old.segments[0].placement}
    after = {p.node: p.replicas for p in new.segments[0].placement}
    changes = {after.get(node, 0) - before.get(node, 0) for node in before | after}
    if min(changes) < 0 < max(changes):
        yield f"{old.name} went from {before} to {after}"


def _phases(state: State) -> Iterator[str]:
    for name, one in state.jobs.items():
        if name != one.job.name or any(s.job != name for s in one.segments):
            yield f"{name} stands for another job"
        has = one.phase in HOLDING or one.phase is Phase.RESERVED
        if has != bool(one.segments):
            yield f"{name} is {one.phase} with {len(one.segments)} segments"
        if one.phase is Phase.RESERVED and one.segments[0].start < state.slot:
            yield f"{name} is promised the past"
        if one.scales and any(a.end != b.start for a, b in pairwise(one.segments)):
            yield f"{name} has a gap in its segments"
        if one.phase in HOLDING and one.segments and one.segments[-1].end <= state.slot:
            yield f"{name} is on its nodes, and its segments have ended"
        if one.then and one.phase is not Phase.STOPPING:
            yield f"{name} is {one.phase} and promised something for when it has stopped"
        if one.then and one.then[0].start < one.segments[0].end:
            yield f"{name} is promised something for before it has stopped"
        if one.phase in (Phase.LAUNCHING, Phase.RUNNING) and one.attempt < 1:
            yield f"{name} runs and was never launched"


def _gangs(state: State) -> Iterator[str]:
    nodes = {n.name: n for n in state.nodes}
    for name, one in state.jobs.items():
        for s in one.segments:
            mode = one.job.modes[s.mode]
            placed = sum(p.replicas for p in s.placement)
            if placed != s.replicas:
                yield f"{name}: {placed} of {s.replicas} replicas have a place"
            if s.replicas != mode.replicas and one.segments[0] is s and not one.scales:
                yield f"{name}: {s.replicas} of the gang of {mode.replicas}"
            for p in s.placement:
                node = nodes.get(p.node)
                if node is None and one.phase is not Phase.STOPPING:
                    yield f"{name} is on {p.node}, which is not there"
                if node is not None and node.pool != mode.pool:
                    yield f"{name} is on {p.node}, which is not of {mode.pool}"
                if node is not None and node.cordoned and one.phase is Phase.RESERVED:
                    yield f"{name} is promised {p.node}, which is cordoned"
                if one.pinned and p.node not in one.pinned:
                    yield f"{name} is on {p.node}, which its owner does not allow"


def _nodes(state: State) -> Iterator[str]:
    """Every slot from now on, every node, every GPU."""
    nodes = {n.name: n for n in state.nodes}
    taken, who = _taken(state)
    for (t, name, what), amount in taken.items():
        if name in nodes and amount > _has(nodes[name], what):
            yield f"slot {t}: {name} has {amount} of {what} taken by {who[t, name]}"


Taken = dict[tuple[int, str, str | int], int]


def _taken(state: State) -> tuple[Taken, dict[tuple[int, str], list[str]]]:
    """By slot, node, and GPU number or resource; and who is there."""
    taken: Taken = Counter()
    who: dict[tuple[int, str], list[str]] = defaultdict(list)
    for one in state.jobs.values():
        for s in (*one.segments, *one.then):
            amounts = one.job.modes[s.mode].amounts
            for t in range(max(s.start, state.slot), min(s.end, state.grid.slots)):
                for p in s.placement:
                    who[t, p.node].append(one.name)
                    taken[t, p.node, "cpu"] += p.replicas * amounts.cpu_milli
                    taken[t, p.node, "memory"] += p.replicas * amounts.memory_bytes
                    for device in p.devices:
                        taken[t, p.node, device] += min(amounts.gpu_milli, GPU_MILLI)
    return taken, who


def _has(node: Node, what: str | int) -> int:
    if what == "cpu":
        return node.capacity.cpu_milli
    if what == "memory":
        return node.capacity.memory_bytes
    return GPU_MILLI if what in node.healthy_gpus() else 0


def _limits(state: State) -> Iterator[str]:
    """Of every queue that states one, in every slot: what is held under it, and promised."""
    accelerators = {p.name: p.accelerator for p in state.pools}
    queues = {r.queue.name: r.queue for r in state.queues}
    used: dict[tuple[int, str, str], int] = Counter()
    for one in state.jobs.values():
        for s in one.segments:
            mode = one.job.modes[s.mode]
            takes = s.replicas * mode.amounts.gpu_milli
            for t in range(max(s.start, state.slot), min(s.end, state.grid.slots)):
                for queue in _path(one, state):
                    used[t, queue, accelerators.get(mode.pool, "")] += takes
    for (t, queue, accelerator), milli in used.items():
        most = dict(queues[queue].limit).get(accelerator)
        if most is not None and milli > GPU_MILLI * most:
            yield f"slot {t}: queue {queue} has {milli} of {most} {accelerator}"


def _kept(state: State) -> Iterator[str]:
    """What queues do not lend, in every slot: held by others it would be more than there is.

    Worlds change: a node that goes, or a queue that keeps more, is no fault of a decision, so only
    what is launched or promised within what there is counts.
    """
    accelerators = {p.name: p.accelerator for p in state.pools}
    have: dict[str, int] = Counter()
    for node in state.nodes:
        if not node.cordoned:
            have[accelerators[node.pool]] += GPU_MILLI * len(node.healthy_gpus())
    queues = {r.queue.name: r.queue for r in state.queues}
    own = _own(state, accelerators)

    def held(t: int, queue: str, accelerator: str) -> int:
        under = [q.name for q in queues.values() if q.parent == queue]
        below = own[t, queue, accelerator] + sum(held(t, q, accelerator) for q in under)
        return below if not queue else max(below, _keeps(queues[queue], accelerator))

    for accelerator in {a for q in queues.values() for a, _ in q.guaranteed}:
        if held(-1, "", accelerator) > have[accelerator]:
            continue  # nothing is held then: more is kept back than there is, so less is
        for t in {t for t, _, a in own if a == accelerator}:
            if (total := held(t, "", accelerator)) > have[accelerator]:
                yield f"slot {t}: {total} of {have[accelerator]} {accelerator}, with what is kept"


def _own(state: State, accelerators: dict[str, str]) -> Counter[tuple[int, str, str]]:
    """What the jobs of each queue itself hold, by slot and accelerator."""
    known = {r.queue.name for r in state.queues}
    own: Counter[tuple[int, str, str]] = Counter()
    for one in state.jobs.values():
        for s in one.segments:
            mode = one.job.modes[s.mode]
            for t in range(max(s.start, state.slot), min(s.end, state.grid.slots)):
                queue = one.job.queue if one.job.queue in known else ""
                takes = s.replicas * mode.amounts.gpu_milli
                own[t, queue, accelerators.get(mode.pool, "")] += takes
    return own


def _keeps(queue: Queue, accelerator: str) -> int:
    guaranteed = dict(queue.guaranteed).get(accelerator, 0)
    lent = dict(queue.lendable or ()).get(accelerator, guaranteed)
    return GPU_MILLI * max(0, guaranteed - lent)


def _path(one: Tracked, state: State) -> list[str]:
    parents = {r.queue.name: r.queue.parent for r in state.queues}
    found: list[str] = []
    queue = one.job.queue
    while queue in parents and queue not in found:
        found.append(queue)
        queue = parents[queue]
    return found
