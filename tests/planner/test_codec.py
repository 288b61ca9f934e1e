"""Frozen values to JSON and back; what does not fit names its field."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.codec import CodecError, decode, encode
from planner.plan import Plan
from planner.problem import Demand, Grid, Job, Mode, Node, Pool, Problem, Queue, Running, Work
from tests.planner.worlds import random_problem

finite = st.floats(allow_nan=False, allow_infinity=False)
st.register_type_strategy(float, finite)
zones = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
instants = st.datetimes(datetime(1970, 1, 2), datetime(8999, 1, 1), timezones=zones)  # noqa: DTZ001  # `timezones` adds the zone
grids = st.builds(
    Grid, start=instants, slot_seconds=st.integers(1, 86_400), slots=st.integers(1, 10_000)
)


def through_text(kind: type, value: Any) -> Any:
    return decode(kind, json.loads(json.dumps(encode(value), allow_nan=False)))


@settings(max_examples=60)
@given(st.data())
@pytest.mark.parametrize("kind", [Plan, Job, Mode, Pool, Node, Queue, Running])
def test_every_value_comes_back_as_it_was(kind: type, data: st.DataObject) -> None:
    value = data.draw(st.from_type(kind))
    assert through_text(kind, value) == value


@given(grids)
def test_a_grid_comes_back_with_its_time_zone(grid: Grid) -> None:
    back = through_text(Grid, grid)
    assert back == grid
    assert back.start.utcoffset() == grid.start.utcoffset()


@given(st.integers(0, 10**6))
def test_a_problem_comes_back_with_its_tables(seed: int) -> None:
    problem = random_problem(seed)
    back = through_text(Problem, problem)
    assert back == problem
    assert list(back.job_by_name) == [j.name for j in problem.jobs]


def test_defaults_are_left_out_and_tables_are_not_written() -> None:
    assert encode(Queue(name="root")) == {"name": "root"}
    assert encode(Queue(name="root", weight=2.0)) == {"name": "root", "weight": 2.0}
    assert set(encode(random_problem(0))) <= {"grid", "pools", "nodes", "jobs", "queues"}


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    pair: tuple[str, int] = ("", 0)
    many: tuple[float, ...] = ()
    when: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    count: int
    share: float = 0.0
    flag: bool = False
    colour: Colour = Colour.RED
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    need: Work | Demand | None = None


WRONG: dict[str, Any] = {
    "document: found [], allowed: Outer": [],
    "count: found '1', allowed: int": {"count": "1"},
    "count: found 1.0, allowed: int": {"count": 1.0},
    "count: found True, allowed: int": {"count": True},
    "count: found None, allowed: int": {"count": None},
    "share: found False, allowed: float": {"count": 1, "share": False},
    "share: found nan, allowed: a finite number": {"count": 1, "share": float("nan")},
    "share: found -inf, allowed: a finite number": {"count": 1, "share": float("-inf")},
    f"share: found 1{'0' * 56}..., allowed: a finite number": {"count": 1, "share": 10**400},
    "flag: found 1, allowed: bool": {"count": 1, "flag": 1},
    "colour: found 'green', allowed: red | blue": {"count": 1, "colour": "green"},
    "inner.pair: found ['a'], allowed: list of 2": {"count": 1, "inner": {"pair": ["a"]}},
    "inner.pair[1]: found 'b', allowed: int": {"count": 1, "inner": {"pair": ["a", "b"]}},
    "inner.many[1]: found 'x', allowed: float": {"count": 1, "inner": {"many": [1.5, "x"]}},
    "inner.many[1]: found inf, allowed: a finite number": {
        "count": 1,
        "inner": {"many": [1.5, float("inf")]},
    },
    "inner.many: found {}, allowed: list": {"count": 1, "inner": {"many": {}}},
    "inner.when: found 'soon', allowed: ISO 8601 time": {"count": 1, "inner": {"when": "soon"}},
    "several[1].colour: unknown field of Inner": {"count": 1, "several": [{}, {"colour": "red"}]},
    "need.amount: found 'x', allowed: float": {"count": 1, "need": {"amount": "x"}},
    "need.per_slot: found 3, allowed: list": {"count": 1, "need": {"per_slot": 3}},
    "more: unknown field of Outer": {"count": 1, "more": 1},
}


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_fit_is_named_by_its_path(said: str) -> None:
    with pytest.raises(CodecError) as raised:
        decode(Outer, WRONG[said])
    assert str(raised.value) == said


def test_a_field_without_a_default_must_stand() -> None:
    with pytest.raises(CodecError, match=r"Outer: .*count"):
        decode(Outer, {})


def test_a_union_takes_the_kind_that_fits() -> None:
    assert decode(Outer, {"count": 1, "need": {"amount": 2}}).need == Work(amount=2.0)
    need = Demand(per_slot=(1.0, 2.0))
    assert decode(Outer, {"count": 1, "need": {"per_slot": [1, 2]}}).need == need


def test_null_is_none_only_where_none_is_allowed() -> None:
    assert decode(Inner, {"when": None}).when is None
    with pytest.raises(CodecError, match="inner: found None"):
        decode(Outer, {"count": 1, "inner": None})


def test_what_a_value_refuses_is_named_by_its_path() -> None:
    data = encode(random_problem(0))
    cases: list[tuple[dict[str, Any], str]] = [
        ({**data["grid"], "slots": 0}, "problem.grid: Grid needs at least one slot"),
        ({**data["grid"], "start": "2026-12-01T00:00:00"}, "problem.grid: Grid.start must carry"),
        ({**data["grid"], "slots": 10**12}, "problem.grid: Grid ends after the year 9999"),
        ({**data["grid"], "slots": 10**60}, "problem.grid: Grid ends after the year 9999"),
    ]
    for grid, said in cases:
        with pytest.raises(CodecError) as raised:
            decode(Problem, {**data, "grid": grid}, "problem")
        assert str(raised.value).startswith(said)


def test_a_problem_refuses_twins_and_names_that_it_does_not_hold() -> None:
    problem = next(p for p in map(random_problem, range(50)) if p.jobs[0].modes)
    job = problem.jobs[0]
    twice = replace(job, modes=())
    nowhere = replace(job, modes=(replace(job.modes[0], pool="moon"),))
    waiting = replace(job, after=("godot",))
    short = replace(job, need=Demand(per_slot=(1.0,)))
    for jobs, said in (
        ((twice, twice), "two of the problem's jobs have the same name"),
        ((nowhere,), "a mode of job j0 names 'moon', which the problem does not hold"),
        ((waiting,), "job j0 names 'godot', which the problem does not hold"),
        ((short,), "job j0 states 1 slots of demand, the grid has"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(problem, jobs=jobs)
    with pytest.raises(ValueError, match="node p0-0 names 'p0', which the problem does not hold"):
        replace(problem, pools=(), jobs=())


def test_times_are_read_in_any_zone() -> None:
    told = decode(Inner, {"when": "2026-12-01T02:00:00+02:00"})
    assert told.when == datetime(2026, 12, 1, tzinfo=UTC)
