"""Gangs held together or apart by topology, in a CP-SAT model: rows over counts by node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ortools.sat.python import cp_model

from planner.table import Option, Table
from planner.topology import NOWHERE


def define_together(
    cp: cp_model.CpModel, table: Table, o: Option, row: Sequence[cp_model.IntVar]
) -> None:
    """All replicas of ``row`` are in one domain: all but one domain hold none."""
    inside = _by_domain(cp, table, o, table.mode(o).together, row)
    here = [cp.new_bool_var(f"here[{o.index},{domain}]") for domain in inside]
    cp.add_at_most_one(here)
    for literal, counts in zip(here, inside.values(), strict=True):
        cp.add(sum(counts) <= o.peak * literal)


def define_spread(
    cp: cp_model.CpModel, table: Table, o: Option, row: Sequence[cp_model.IntVar]
) -> None:
    """No domain holds two replicas of ``row``."""
    for counts in _by_domain(cp, table, o, table.mode(o).spread, row).values():
        if len(counts) > 1:  # a node by itself holds one at most
            cp.add(sum(counts) <= 1)


def _by_domain(
    cp: cp_model.CpModel, table: Table, o: Option, level: str, row: Sequence[cp_model.IntVar]
) -> dict[int, list[cp_model.IntVar]]:
    """The counts by domain of a topology level; none where the domain is not known."""
    found: dict[int, list[cp_model.IntVar]] = defaultdict(list)
    for domain, k in zip(table.domains(o.pool, level), row, strict=True):
        if domain == NOWHERE:
            cp.add(k == 0)
        else:
            found[domain].append(k)
    return found
