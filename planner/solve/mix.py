"""The cheapest whole numbers of GPUs that carry a workload, each bucket split in any parts.

Sets       buckets b that are asked for, offers o
Data       load[b, o] = requests of b a second / what one GPU of o carries of them;  usd[o]
Variables  n[o] >= 0, whole: GPUs;  y[b, o] in [0, 1]: the part of b that o serves
Model      least sum of usd n
    serve_b  sum of y[b, o] over the offers that can = 1
    carry_o  sum of load[b, o] y[b, o] <= n[o]

solved by SCIP to a gap of 0: only the n are whole, so it is small however many requests there are.
Where they need not be whole, each bucket goes to the offer of least usd[o] load[b, o]: a bound at
once, and rounded up a mix, which is the answer should SCIP have none in time.

Mélange (T. Griggs et al., Mélange: Cost Efficient Large Language Model Serving by Exploiting GPU
Heterogeneity, 2024) has the same rows with each bucket cut into equal slices, of which each goes
whole to one type. Every answer of that is one of this, so this never costs more.

For the numbers found, the parts are chosen anew so that the busiest type's utilisation is least.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from ortools.math_opt.python import mathopt

from planner.serving import TOLERANCE, Mix, Workload, violations

Parts = dict[tuple[int, int], mathopt.Variable]  # by bucket and offer, those that can serve it


class WrongMix(AssertionError):
    """The mix broke its own workload: a bug, never a user's fault."""


def cheapest(workload: Workload, *, seconds: float = 30.0) -> Mix | None:
    """The cheapest mix, with what is proved of it; the best found where ``seconds`` did not do.

    None where a bucket that is asked for can be served by no offer (`Workload.unserved` names it).
    """
    if workload.unserved:
        return None
    relaxed, bound = _relaxed(workload)
    best = _mix(workload, [math.ceil(n - TOLERANCE) for n in relaxed], bound)
    if best is None:
        raise WrongMix(f"GPUs rounded up from {relaxed} do not carry the workload")
    if best.gap_fraction:
        gpus, proved = _whole(workload, seconds)
        bound = max(bound, min(proved, best.usd_per_hour))
        found = _mix(workload, gpus, bound) if gpus else None
        if found is None or found.usd_per_hour >= best.usd_per_hour:
            found = _mix(workload, best.gpus, bound)
        best = found or best
    return best


def _mix(workload: Workload, gpus: Sequence[int], bound: float) -> Mix | None:
    """These GPUs as a mix; None where they do not carry the workload."""
    usd = math.fsum(n * o.usd_per_hour for n, o in zip(gpus, workload.offers, strict=True))
    split = _split(workload, gpus)
    if split is None:
        return None
    mix = Mix(gpus=tuple(gpus), split=split, usd_per_hour=usd, bound_usd_per_hour=min(bound, usd))
    return None if violations(workload, mix) else mix


def _relaxed(workload: Workload) -> tuple[list[float], float]:
    """GPUs by offer, not whole, and their price: no mix costs less."""
    gpus = [0.0] * len(workload.offers)
    prices = [offer.usd_per_hour for offer in workload.offers]
    for b, asked in enumerate(workload.requests_per_second):
        if asked:
            loads = [workload.load(b, o) for o in range(len(gpus))]
            able = [o for o, load in enumerate(loads) if math.isfinite(load)]
            o = min(able, key=lambda o: (prices[o] * loads[o], loads[o]))
            gpus[o] += loads[o]
    return gpus, math.fsum(usd * n for usd, n in zip(prices, gpus, strict=True))


def _whole(workload: Workload, seconds: float) -> tuple[list[int], float]:
    """GPUs by offer, none where SCIP found none in time, and its bound (USD per hour)."""
    model, part = _define_serve(workload, range(len(workload.offers)))
    gpus = [
        model.add_variable(lb=0.0, is_integer=True, name=f"n_{o.name}") for o in workload.offers
    ]
    for o, load in _loads(workload, part).items():
        model.add_linear_constraint(load <= gpus[o], name=f"carry_{o}")
    prices = [offer.usd_per_hour for offer in workload.offers]
    model.minimize(mathopt.fast_sum([usd * n for usd, n in zip(prices, gpus, strict=True)]))
    params = mathopt.SolveParameters(
        time_limit=timedelta(seconds=seconds),
        relative_gap_tolerance=0.0,
        absolute_gap_tolerance=0.0,
    )
    result = mathopt.solve(model, mathopt.SolverType.GSCIP, params=params)
    bound = float(result.termination.objective_bounds.dual_bound)
    if not result.has_primal_feasible_solution():
        return [], bound
    return [round(n) for n in result.variable_values(gpus)], bound


def _split(workload: Workload, gpus: Sequence[int]) -> tuple[tuple[float, ...], ...] | None:
    """Parts by bucket and offer such that the busiest of ``gpus`` has the least to do.

    None where some bucket has none that serve it, or the LP has no answer.
    """
    model, part = _define_serve(workload, [o for o, n in enumerate(gpus) if n])
    if {b for b, _ in part} != {b for b, r in enumerate(workload.requests_per_second) if r}:
        return None
    busiest = model.add_variable(lb=0.0, name="busiest")
    for o, load in _loads(workload, part, per=gpus).items():
        model.add_linear_constraint(load <= busiest, name=f"carry_{o}")
    model.minimize(busiest)
    result = mathopt.solve(model, mathopt.SolverType.GLOP)
    if not result.has_primal_feasible_solution():
        return None
    rows = [[0.0] * len(gpus) for _ in workload.buckets]
    for (b, o), y in part.items():
        rows[b][o] = max(0.0, float(result.variable_values(y)))
    whole = ((row, math.fsum(row)) for row in rows)
    return tuple(tuple(y / total if total else 0.0 for y in row) for row, total in whole)


def _define_serve(workload: Workload, offers: Sequence[int]) -> tuple[mathopt.Model, Parts]:
    """serve_b, with those of ``offers`` that can"""
    model = mathopt.Model()
    part: Parts = {}
    for b, asked in enumerate(workload.requests_per_second):
        able = [o for o in offers if math.isfinite(workload.load(b, o))]
        if asked and able:
            made = [model.add_variable(lb=0.0, ub=1.0, name=f"y_{b}_{o}") for o in able]
            part |= {(b, o): y for o, y in zip(able, made, strict=True)}
            model.add_linear_constraint(mathopt.fast_sum(made) == 1, name=f"serve_{b}")
    return model, part


def _loads(
    workload: Workload, part: Parts, per: Sequence[int] = ()
) -> dict[int, mathopt.LinearSum]:
    """GPUs of work by offer, those that have any; ``per`` so many of each."""
    terms: dict[int, list[mathopt.LinearTerm]] = defaultdict(list)
    for (b, o), y in part.items():
        terms[o].append(workload.load(b, o) / (per[o] if per else 1) * y)
    return {o: mathopt.fast_sum(own) for o, own in terms.items()}
