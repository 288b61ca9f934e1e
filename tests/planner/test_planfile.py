"""Plan files: written whole or not at all, read exactly or refused in one line."""

from __future__ import annotations

import json
import math
import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner import planfile
from planner.check import violations
from planner.codec import encode
from planner.plan import Bound, Costs, Plan, Reason, Status, Unplaced
from planner.planfile import PlanFile, PlanFileError, document, read_plan, write_plan
from planner.solve.pick import solve
from scheduler.baselines import first_come_first_served
from tests.planner.worlds import job, mode, pool, problem, random_problem

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@pytest.fixture
def file() -> PlanFile:
    """Two jobs of an hour on a GPU at $3, of which one is left out for its deadline."""
    one = pool("a", usd=3.0)
    asked = problem((one,), (job("x", mode(one)), job("y", mode(one, hours=2), deadline=1)))
    return PlanFile(problem=asked, plan=solve(asked), baseline=first_come_first_served(asked))


@pytest.fixture
def path(tmp_path: Path, file: PlanFile) -> Path:
    target = tmp_path / "plan.json"
    write_plan(target, file)
    return target


# -- there and back ------------------------------------------------------------------------------


def test_a_plan_file_comes_back_as_it_was(path: Path, file: PlanFile) -> None:
    assert read_plan(path) == file


@SHARED
@given(seed=st.integers(0, 10**6))
def test_the_plans_of_random_worlds_come_back_as_they_were(tmp_path: Path, seed: int) -> None:
    asked = random_problem(seed)
    file = PlanFile(problem=asked, plan=solve(asked), baseline=None)
    write_plan(tmp_path / "plan.json", file)
    back = read_plan(tmp_path / "plan.json")
    assert back == file
    assert violations(back.problem, back.plan) == ()


def test_the_fields_that_scripts_read_are_those_of_the_plan(path: Path, file: PlanFile) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    # x: 1 h x $3; y: left out at $1,000, its deadline being too early.
    expected = {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "Plan",
        "status": "optimal",
        "objectiveUsd": 1003.0,
        "boundUsd": 1003.0,
        "gapFraction": 0.0,
        "costUsd": 3.0,
        "movingUsd": 0.0,
        "latenessUsd": 0.0,
        "notRunningUsd": 1000.0,
        "fullCostUsd": 3.0,
        "usefulFlops": 1e15,
        "usdPerPflop": 3.0,
        "baselineUsd": 3.0,
        "seed": 0,
    }
    assert {name: told[name] for name in expected} == expected
    assert told["segments"] == [
        {
            "job": "x",
            "pool": "a",
            "gpus": 1,
            "replicas": 1,
            "nodes": ["a-0"],
            "devices": {"a-0": [0]},
            "start": "2026-12-01T00:00:00+00:00",
            "end": "2026-12-01T01:00:00+00:00",
            "hours": 1.0,
            "costUsd": 3.0,
            "flops": 1e15,
            "layout": "",
        }
    ]
    assert [(u["job"], u["reason"], u["binds"]) for u in told["unplaced"]] == [
        ("y", "window", ["a"])
    ]
    assert told["solveSeconds"] == file.plan.solve_seconds


def test_a_gap_without_end_is_written_as_unknown(tmp_path: Path, file: PlanFile) -> None:
    nothing = replace(
        file.plan,
        status=Status.TIMEOUT,
        segments=(),
        costs=Costs(not_running=2000.0),
        bound=Bound(usd=0.0),
    )
    assert math.isinf(nothing.gap_fraction)
    write_plan(tmp_path / "none.json", replace(file, plan=nothing))
    assert json.loads((tmp_path / "none.json").read_bytes())["gapFraction"] is None
    assert read_plan(tmp_path / "none.json").plan == nothing


# -- whole or not at all -------------------------------------------------------------------------


def test_a_file_is_the_document_with_a_line_for_each_job_node_and_segment(
    path: Path, file: PlanFile
) -> None:
    text = path.read_text()
    assert json.loads(text) == document(file)
    lines = [line.strip().rstrip(",") for line in text.splitlines()]
    assert all(
        json.dumps(encode(each)) in lines for each in (*file.problem.jobs, *file.plan.segments)
    )


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    path: Path, file: PlanFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: PlanFile) -> Iterator[str]:
        yield "{"
        raise OSError("disk full")

    before = path.read_bytes()
    monkeypatch.setattr(planfile, "_text", broken)
    with pytest.raises(OSError, match="disk full"):
        write_plan(path, file)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["plan.json"]


def test_what_json_cannot_say_is_not_written(path: Path, file: PlanFile) -> None:
    before = path.read_bytes()
    false = replace(file, plan=replace(file.plan, useful_flops=math.nan))
    with pytest.raises(ValueError, match="JSON"):
        write_plan(path, false)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["plan.json"]


def test_a_plan_file_can_be_read_by_others(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


# -- refused -------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    """What a file is refused with: one line of bounded length that begins with the file's name."""
    with pytest.raises(PlanFileError) as raised:
        read_plan(path)
    said = str(raised.value)
    assert said.startswith(f"{path}: ")
    assert len(said.splitlines()) == 1
    assert len(said) <= len(str(path)) + 210
    return said.removeprefix(f"{path}: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.json") == "No such file or directory"
    assert refused(tmp_path) == "Is a directory"


NOT_JSON = {
    "nothing": b"",
    "text": b"hello",
    "not UTF-8": b"\xff\xfe\x00\x80",
    "too deep": b"[" * 200_000,
    "a number of too many digits": b'{"kind": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("what", NOT_JSON)
def test_what_is_not_json_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(NOT_JSON[what])
    assert refused(path).startswith("not JSON: ")


def test_five_megabytes_of_garbage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(random.Random(0).randbytes(5_000_000))
    assert refused(path).startswith("not JSON: ")
    path.write_text(json.dumps([{"kind": "x" * 100}] * 50_000), encoding="utf-8")
    assert refused(path).startswith("not a plan: ")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_plan_is_refused(path: Path, part: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    assert refused(path).startswith("not JSON: ")


@pytest.mark.parametrize(
    "change", [{"kind": "GpuJob"}, {"apiVersion": "flopwise.dev/v2"}, {"kind": None}]
)
def test_another_kind_is_refused(path: Path, change: dict[str, str]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}), encoding="utf-8")
    said = "not a plan: apiVersion flopwise.dev/v1alpha1 and kind Plan expected"
    assert refused(path) == said


Change = Callable[[dict[str, Any]], object]

FALSE: dict[str, Change] = {
    "problem: found None, allowed: Problem": lambda d: d.pop("problem"),
    "answer: found None, allowed: Plan": lambda d: d.pop("answer"),
    "answer.status: found 'best', allowed: optimal | feasible | infeasible | timeout": lambda d: d[
        "answer"
    ].update(status="best"),
    "answer.segments[0].start: found '0', allowed: int": lambda d: d["answer"]["segments"][
        0
    ].update(start="0"),
    "answer.segments[0].colour: unknown field of Segment": lambda d: d["answer"]["segments"][
        0
    ].update(colour="red"),
    "answer.costs.money: found nan, allowed: a finite number": lambda d: d["answer"][
        "costs"
    ].update(money=math.nan),
    "answer.bound.usd: found inf, allowed: a finite number": lambda d: d["answer"]["bound"].update(
        usd=math.inf
    ),
    "baseline.status: found 1, allowed: optimal | feasible | infeasible | timeout": lambda d: d[
        "baseline"
    ].update(status=1),
    "problem.grid.start: found 'today', allowed: ISO 8601 time": lambda d: d["problem"][
        "grid"
    ].update(start="today"),
    "problem.jobs[1].modes[0].pool: found None, allowed: str": lambda d: d["problem"]["jobs"][1][
        "modes"
    ][0].update(pool=None),
    "problem: two of the problem's jobs have the same name": lambda d: d["problem"]["jobs"][
        1
    ].update(name="x"),
    "problem: node a-0 names 'b', which the problem does not hold": lambda d: d["problem"]["nodes"][
        0
    ].update(pool="b"),
    "answer.unplaced: y stands twice": lambda d: d["answer"].update(
        unplaced=d["answer"]["unplaced"] * 2
    ),
}


@pytest.mark.parametrize("said", FALSE)
def test_a_field_that_does_not_fit_is_named(path: Path, said: str) -> None:
    data = json.loads(path.read_bytes())
    FALSE[said](data)
    path.write_text(json.dumps(data), encoding="utf-8")
    assert refused(path) == said


def test_names_of_many_lines_are_told_in_one(path: Path) -> None:
    data = json.loads(path.read_bytes())
    data["answer"]["a\nb" * 1000] = 1
    path.write_text(json.dumps(data), encoding="utf-8")
    assert refused(path).startswith("answer.a ba b")


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text("xyz", max_size=4),
    st.just([]),
    st.just({}),
    st.just({"x": 1}),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    inner = [(value, key) for key in keys]
    nested = (value[key] for key in keys if isinstance(value[key], dict | list))
    return [*inner, *(place for each in nested for place in places(each))]


@SHARED
@given(data=st.data())
def test_whatever_stands_in_a_field_the_file_is_read_and_checked_or_refused(
    path: Path, data: st.DataObject
) -> None:
    content = json.loads(path.read_bytes())
    part = data.draw(st.sampled_from(["answer", "problem"]))
    spots = places(content[part])
    container, key = spots[data.draw(st.integers(0, len(spots) - 1))]
    container[key] = data.draw(JUNK)
    target = path.with_name("changed.json")
    target.write_text(json.dumps(content), encoding="utf-8")
    said = told(target)
    assert all(len(line.splitlines()) == 1 for line in said)


def told(path: Path) -> tuple[str, ...]:
    """What a file is refused with, or what is false of its plan."""
    try:
        back = read_plan(path)
    except PlanFileError as error:
        return (str(error),)
    return violations(back.problem, back.plan)


def test_a_plan_that_is_false_is_read_and_told_by_the_check(path: Path, file: PlanFile) -> None:
    late = replace(file.plan.segments[0], start=8, end=9)
    write_plan(path, replace(file, plan=replace(file.plan, segments=(late,))))
    back = read_plan(path)
    assert violations(back.problem, back.plan) == (
        "segment of x: [8, 9) is not a stretch of the grid",
    )


def test_a_plan_without_anything_is_a_plan(tmp_path: Path) -> None:
    asked = problem((pool("a"),), (job("x"),))
    empty = Plan(
        status=Status.OPTIMAL,
        unplaced=(Unplaced(job="x", reason=Reason.NO_OPTION, message="none"),),
        costs=Costs(not_running=1000.0),
        bound=Bound(usd=1000.0),
    )
    write_plan(tmp_path / "p.json", PlanFile(problem=asked, plan=empty))
    assert read_plan(tmp_path / "p.json").plan == empty
