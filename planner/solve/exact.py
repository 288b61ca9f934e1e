"""The whole problem to CP-SAT, tier by tier."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from planner.booking import Booking
from planner.problem import Billing
from planner.solve import build, model, parts, stops
from planner.solve.build import Bookings
from planner.solve.clock import Clock
from planner.table import Table

ALONE_SECONDS = 1.0  # for one worker, before there are more

MOST_PIECES = 6_000  # literals for jobs that may stop

Caps = list[tuple[frozenset[int], float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a method knows: bookings of a plan (None: none found) and what is proved of the best."""

    bookings: Bookings | None
    bound_usd: float
    optimal: bool = False
    infeasible: bool = False


def upper_tiers(table: Table) -> list[frozenset[int]]:
    """Jobs by tier, highest first, without the lowest: what lower tiers must not crowd out.

    A job that costs more than leaving it out is left out for that: nobody crowds it out.
    """
    jobs, paying = table.problem.jobs, table.paying()
    tiers = sorted({j.rank for j in jobs}, reverse=True)[:-1]
    return [
        frozenset(i for i, j in enumerate(jobs) if j.rank == tier and paying[i]) for tier in tiers
    ]


def left_out_usd(table: Table, bookings: Mapping[int, Booking], jobs: frozenset[int]) -> float:
    """Not-running cost of ``jobs`` (USD)."""
    return math.fsum(table.problem.jobs[j].unplaced_usd for j in jobs if j not in bookings)


def prove(table: Table, clock: Clock) -> Found:
    """The optimum, or what the time allows: the best plan found, and a bound on every plan.

    A plan's upper tiers are looked at first: where they leave somebody out, the least that has to
    be left out of each is proved, highest first, and held. That is stricter than "no job is left
    out for lower ones alone": a higher tier's least cost of not running comes before everything
    below it. Optimum and bound are then those of the plans that keep priorities so.
    """
    found = _run(table, clock, [])
    tiers = upper_tiers(table)
    if found.bookings is None or all(
        left_out_usd(table, found.bookings, jobs) <= 1e-6 for jobs in tiers
    ):
        return found
    caps: Caps = []
    proved = True
    for jobs in tiers:
        least = _least_left_out(table, clock, jobs, caps, found.bookings)
        if least is None:
            proved = False
            break
        caps.append((jobs, least))
    final = _run(table, clock, caps)
    if final.bookings is None:
        return Found(bookings=found.bookings, bound_usd=found.bound_usd)
    return Found(
        bookings=final.bookings,
        bound_usd=final.bound_usd if proved else found.bound_usd,
        optimal=final.optimal and proved,
    )


def _least_left_out(
    table: Table, clock: Clock, jobs: frozenset[int], caps: Caps, hint: Bookings
) -> float | None:
    m = model.define(table, allowed=table.paying(), caps=caps, in_pieces=True)
    model.only_leaving_out(m, jobs)
    answer = _answer(m, clock, tuple(hint.values()))
    if not answer.optimal or answer.bookings is None:
        return None
    placed = {table.options[b.option].job: b for b in answer.bookings}
    return left_out_usd(table, placed, jobs)


def _answer(m: model.Model, clock: Clock, hint: tuple[Booking, ...] = ()) -> model.Answer:
    """One worker first, which answers the same each time; more where that proves nothing."""
    seed = clock.limits.seed
    alone = min(clock.left, ALONE_SECONDS)
    answer = model.solve(m, seconds=alone, seed=seed, hint=hint, workers=1, stop=clock.stop)
    if answer.optimal or answer.infeasible or not clock.left:
        return answer
    again = model.solve(
        m, seconds=clock.left, seed=seed, hint=answer.bookings or hint, stop=clock.stop
    )
    return again if again.bookings is not None or again.infeasible else answer


def _run(table: Table, clock: Clock, caps: Caps) -> Found:
    m = model.define(table, allowed=dict(enumerate(table.of_job)), caps=caps, in_pieces=True)
    answer = _answer(m, clock)
    if answer.bookings is None:
        return Found(bookings=None, bound_usd=answer.bound_usd, infeasible=answer.infeasible)
    bookings = named(table, answer.bookings)
    optimal = answer.optimal and m.exact_bills  # else the model's bills are too low
    return Found(bookings=bookings, bound_usd=answer.bound_usd, optimal=optimal)


def named(table: Table, bookings: tuple[Booking, ...]) -> Bookings:
    """Bookings by job, with nodes for the pools that the model took by count."""
    counted = [p for p in range(len(table.problem.pools)) if model.counts_suffice(table, p)]
    placed = build.replace_counted(table, bookings, counted)
    if placed is None:
        raise AssertionError("intervals of whole nodes within their number can always be coloured")
    return placed


def small(table: Table) -> bool:
    """Whether the whole problem is worth handing to CP-SAT before anything else."""
    nodes = sum(
        len(table.options[i].runs) * len(table.nodes[table.options[i].pool])
        for i in range(len(table.options))
    )
    literals = sum(
        (o.last - o.first + 1) * len(table.nodes[o.pool])
        for o in table.options
        if table.problem.pools[o.pool].billing is Billing.NODE
    )
    nodes += sum(parts.literals(table, o) for o in table.options)
    pieces = sum(
        stops.literals(table, [table.options[i] for i in ours])
        for job, ours in zip(table.problem.jobs, table.of_job, strict=True)
        if job.may_stop
    )
    return nodes <= 400 and literals <= model.TIME_LITERALS and pieces <= MOST_PIECES
