"""Which nodes share a domain of a topology level: a host, an NVLink clique, a rack, a zone.

A node's path names its domain at each of its pool's levels, near to far. A domain is its name and
those of all that hold it, so that two racks called ``r1`` in two zones are two. A node whose domain
at a level is not known is nowhere: no gang is held together there and no replica spread there, as
Kubernetes passes over nodes that lack the label.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.problem import Node, Pool

HOSTNAME = "kubernetes.io/hostname"  # the level at which every node is a domain of its own
NOWHERE = -1  # the domain of a node whose place at a level is not known


def domains(pool: Pool, nodes: Sequence[Node], level: str) -> tuple[int, ...]:
    """A number for each of the pool's ``nodes``, equal where they share a domain of ``level``."""
    if level == HOSTNAME:
        return tuple(range(len(nodes)))
    if level not in pool.topology_levels:
        return (NOWHERE,) * len(nodes)
    at = pool.topology_levels.index(level)
    numbers: dict[tuple[str, ...], int] = {}
    return tuple(
        numbers.setdefault(path, len(numbers)) if path else NOWHERE
        for path in (n.topology[at:] for n in nodes)
    )
