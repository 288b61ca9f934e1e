"""Many problems at once: here, and as tasks of a real Ray on this machine."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from planner import scenarios
from planner.codec import encode
from planner.plan import Plan
from planner.problem import Amounts, Problem
from planner.scenarios import Ray, ScenarioError, connected, solve_here, solve_on
from planner.solve.clock import Limits, Step, Stop
from planner.solve.pick import solve
from planner.table import Unsupported
from tests.flopwise.command import POOLS, on_its_own
from tests.flopwise.command import job as command_job
from tests.planner.worlds import job, mode, pool, problem, random_problem

LIMITS = Limits(seconds=20.0)


def unheard(step: Step) -> None:
    del step


def timeless(plan: Plan) -> Plan:
    return replace(plan, solve_seconds=0.0)


def unplannable() -> Problem:
    some = pool("a", gpus=1)
    odd = replace(mode(some), amounts=Amounts(gpu_milli=1500))
    return problem((some,), (job("x", odd),))


def test_here_the_plans_come_in_order_until_it_is_stopped() -> None:
    asked, stop = [random_problem(seed) for seed in range(4)], Stop()
    plans = []
    for plan in solve_here(asked, LIMITS, unheard, stop):
        plans.append(timeless(plan))
        if len(plans) == 2:
            stop.set()
    assert plans == [timeless(solve(p, LIMITS)) for p in asked[:2]]


def test_a_stop_before_the_first_still_has_the_first() -> None:
    stop = Stop()
    stop.set()
    assert len(list(solve_here([random_problem(0)] * 2, LIMITS, unheard, stop))) == 1


def test_a_task_carries_text_and_brings_back_text() -> None:
    asked = random_problem(1)
    task = json.dumps({"problem": encode(asked), "limits": encode(LIMITS)})
    answer = scenarios._solve(task)
    assert timeless(scenarios._plan(answer)) == timeless(solve(asked, LIMITS))


def test_what_cannot_be_planned_is_told_as_here() -> None:
    asked = unplannable()
    with pytest.raises(Unsupported) as here:
        solve(asked)
    with pytest.raises(Unsupported) as there:
        scenarios._plan(
            scenarios._solve(json.dumps({"problem": encode(asked), "limits": encode(LIMITS)}))
        )
    assert str(there.value) == str(here.value)


def test_patience_grows_with_the_waves_of_tasks() -> None:
    # Five tasks of 10 s on two CPUs are three waves, each with half more and a minute's grace.
    assert scenarios._patience(10.0, 5, 2.0) == 60 + 3 * (60 + 15)


@pytest.mark.parametrize("address", ["nowhere", "host:", ":123x"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(ScenarioError, match=r"allowed: HOST:PORT or ray://HOST:PORT"):
        solve_on(Ray(address=address), [random_problem(0)], LIMITS)


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ScenarioError, match=f"Ray at {address}: .*refused"):
            solve_on(Ray(address=address), [random_problem(0)], LIMITS)


@pytest.fixture(scope="module")
def ray() -> Iterator[Ray]:
    """A Ray of two CPUs that serves all tests of this file."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with connected(Ray(), most=2):
        yield Ray()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
class TestOnRay:
    """One head serves them all."""

    def test_the_plans_are_those_of_the_sequential_run_in_its_order(self, ray: Ray) -> None:
        asked = [random_problem(seed) for seed in range(5)]
        here = [timeless(p) for p in solve_here(asked, LIMITS, unheard, Stop())]
        assert [timeless(p) for p in solve_on(ray, asked, LIMITS)] == here

    def test_what_cannot_be_planned_is_told(self, ray: Ray) -> None:
        with pytest.raises(Unsupported, match="job x"):
            solve_on(ray, [random_problem(0), unplannable()], LIMITS)

    def test_a_ray_that_answers_too_late_is_told(
        self, ray: Ray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scenarios, "_patience", lambda *_: 0.001)
        with pytest.raises(ScenarioError, match="Ray: no answer within 0 s"):
            solve_on(ray, [random_problem(0)], LIMITS)

    def test_a_given_ray_is_asked_by_its_address(self, ray: Ray, tmp_path: Path) -> None:
        del ray  # it runs; here it is found by its address
        address = pytest.importorskip("ray").get_runtime_context().gcs_address
        manifests = tmp_path / "all.yaml"
        manifests.write_text(POOLS + command_job("sft"), encoding="utf-8")
        asked = ("whatif", "-f", manifests, "--change", "pool/a100.price*=0.5")
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"]}
        there = on_its_own(*asked, "--on", "ray", "--address", address, **token)
        assert (there.code, there.err) == (0, "")
        assert there.out == on_its_own(*asked).out
