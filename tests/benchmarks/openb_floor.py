"""What no placement of an openb arrival order can go below, by linear programs.

``ceiling_milli``      whatever is refused: kinds of node are one large node each
``refusing_nothing``   where all that arrives is placed until no GPU is whole any more
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from ortools.math_opt.python import mathopt

from planner.convert.openb import OpenbNode, Pod
from planner.problem import GPU_MILLI

STEPS = 200  # moments at which the last whole GPU may be used, over the order of arrival
PATIENCE = 3  # steps without a gain: the most rises to one moment and falls after it


def ceiling_milli(nodes: Sequence[OpenbNode], pods: Sequence[Pod]) -> float:
    """No placement uses more GPU thousandths.

    Sets       k kinds of pod, c kinds of node
    Data       each kind's amounts; how many pods of a kind there are; what the nodes of a kind have
    Variables  x[k, c] >= 0, pods of a kind on nodes of a kind that have a model it runs on
    Model      most sum of GPU thousandths x;  sum over c of x[k, c] <= pods of k;
               sum over k of CPU, memory and GPU x[k, c] <= what the nodes of c have of each
    """
    kinds = Counter((p.cpu_milli, p.memory_mib, p.gpus * p.gpu_milli, p.models) for p in pods)
    wanted = [(kind, count) for kind, count in kinds.items() if kind[2]]
    fleet = Counter((n.model, n.cpu_milli, n.memory_mib, n.gpus * GPU_MILLI) for n in nodes)
    model = mathopt.Model()
    part = {
        (k, node): model.add_variable(lb=0.0)
        for k, ((_, _, _, models), _) in enumerate(wanted)
        for node in fleet
        if not models or node[0] in models
    }
    for k, (_, count) in enumerate(wanted):
        mine = [x for (kind, _), x in part.items() if kind == k]
        model.add_linear_constraint(mathopt.fast_sum(mine) <= count)
    for node, count in fleet.items():
        here = [(wanted[k][0], x) for (k, at), x in part.items() if at == node]
        for what in range(3):
            taken = mathopt.fast_sum([kind[what] * x for kind, x in here])
            model.add_linear_constraint(taken <= count * node[what + 1])
    model.maximize(mathopt.fast_sum([wanted[k][0][2] * x for (k, _), x in part.items()]))
    most = _solved(model)
    if most is None:
        raise RuntimeError("GLOP found no ceiling")
    return most


def refusing_nothing_milli(gpus: int, pods: Sequence[Pod]) -> float:
    """The most that is used, with perfect knowledge, when a pod that fits is never refused.

    CPUs, memory and models are let go of, and until the last whole GPU is used every pod is taken
    to fit: only GPUs run out. From then on whole GPUs and the largest shares find none.

    Sets       p ways to fill one GPU with shares; s sizes of share; t, when the last whole GPU goes
    Data       n[p, s], shares in a way; before[s] and all[s], how many arrive until t and in all;
               whole, GPUs that pods of whole ones ask for until t
    Variables  x[p] >= 0, GPUs filled in that way
    Model      most sum over p, s of s n[p, s] x[p] + 1000 whole;  sum of x <= GPUs - whole;
               before[s] <= sum over p of n[p, s] x[p] <= all[s], or before[s] where s has no room
               beside any other share
    The most over all t that can be.
    """
    shares = sorted({p.gpu_milli for p in pods if 0 < p.gpu_milli < GPU_MILLI})
    ways = list(ways_to_fill(shares))
    asked = list(accumulate((p.gpus * p.gpu_milli for p in pods), initial=0))
    latest = bisect_right(asked, gpus * GPU_MILLI) - 1  # then all GPUs would be full to the end
    best, worse = 0.0, 0
    for until in range(latest, -1, -max(1, len(pods) // STEPS)):
        most = _most_milli(gpus, pods, until, ways) or 0.0
        worse = worse + 1 if 0.0 < most <= best else 0
        best = max(best, most)
        if worse == PATIENCE:
            break
    return best


def _most_milli(
    gpus: int, pods: Sequence[Pod], until: int, ways: Sequence[Mapping[int, int]]
) -> float | None:
    shares = Counter(p.gpu_milli for p in pods if 0 < p.gpu_milli < GPU_MILLI)
    before = Counter(p.gpu_milli for p in pods[:until] if 0 < p.gpu_milli < GPU_MILLI)
    whole = sum(p.gpus for p in pods[:until] if p.gpu_milli == GPU_MILLI)
    if whole > gpus:
        return None
    model = mathopt.Model()
    filled = [(way, model.add_variable(lb=0.0)) for way in ways]
    for size, count in shares.items():
        placed = mathopt.fast_sum([way[size] * x for way, x in filled if size in way])
        beside = size + min(shares) <= GPU_MILLI  # a GPU that is not whole may have room for it
        most = count if beside else before[size]
        model.add_linear_constraint(placed >= before[size])
        model.add_linear_constraint(placed <= most)
    model.add_linear_constraint(mathopt.fast_sum([x for _, x in filled]) <= gpus - whole)
    used = [sum(size * n for size, n in way.items()) * x for way, x in filled]
    model.maximize(mathopt.fast_sum(used))
    most_milli = _solved(model)
    return None if most_milli is None else most_milli + GPU_MILLI * whole


def ways_to_fill(sizes: Sequence[int], room: int = GPU_MILLI) -> Iterator[Mapping[int, int]]:
    """Every multiset of shares that fits one GPU, the empty one too."""
    if not sizes:
        yield Counter()
        return
    *smaller, largest = sizes
    for count in range(room // largest + 1):
        for rest in ways_to_fill(smaller, room - count * largest):
            yield Counter({largest: count}) + Counter(rest)


def _solved(model: mathopt.Model) -> float | None:
    """The optimum; None where nothing is feasible."""
    result = mathopt.solve(model, mathopt.SolverType.GLOP)
    optimal = result.termination.reason is mathopt.TerminationReason.OPTIMAL
    return float(result.objective_value()) if optimal else None
