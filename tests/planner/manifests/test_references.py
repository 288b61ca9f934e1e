"""Circles, found by a walk and by a library that only says whether there is one."""

from __future__ import annotations

import graphlib

from hypothesis import given
from hypothesis import strategies as st

from planner.manifests.references import Key, cycles


def key(number: int) -> Key:
    return ("GpuJob", "default", f"j{number}")


EDGES = st.dictionaries(
    st.integers(0, 7).map(key), st.lists(st.integers(0, 9).map(key), max_size=3), max_size=8
)


@given(EDGES)
def test_a_circle_is_found_where_there_is_one_and_is_one(edges: dict[Key, list[Key]]) -> None:
    found = list(cycles(edges))
    for circle in found:
        assert all(b in edges[a] for a, b in zip(circle, circle[1:] + circle[:1], strict=True))
    try:
        graphlib.TopologicalSorter(edges).prepare()
        assert found == []
    except graphlib.CycleError:
        assert found != []


def test_a_circle_of_any_length_is_walked_without_recursion() -> None:
    edges = {key(i): [key((i + 1) % 50_000)] for i in range(50_000)}
    (circle,) = cycles(edges)
    assert len(circle) == 50_000
