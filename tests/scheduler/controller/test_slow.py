"""The plan of the whole queue, in a process of its own."""

from __future__ import annotations

import io
import json
import queue
import sys
from dataclasses import replace

from planner.check import violations
from planner.codec import decode, encode
from planner.plan import Plan
from planner.problem import Pool
from scheduler.controller.decide import run
from scheduler.controller.slow import Answer, Slow, serve
from scheduler.controller.state import JobArrived, PlanArrived, State, Tracked
from tests.planner.worlds import job, mode, pool
from tests.scheduler.controller.play import at, world

ECHO = (
    "import sys\n"
    "line = sys.stdin.readline()\n"
    "sys.exit(3) if '-' in sys.argv else print('{\"error\": \"no\"}', flush=True)\n"
)


def waiting() -> State:
    """Two jobs of a GPU and an hour each."""
    h100: Pool = pool("h100")
    state = world(h100)
    for name in ("a", "b"):
        made = Tracked(job=job(name, mode(h100)), arrived=at(0), uid=name)
        state = run(JobArrived(at=at(0), job=made), state)
    return state


def test_a_question_is_answered_by_a_plan_that_holds() -> None:
    problem = waiting().problem()
    asked = {"problem": encode(problem), "seconds": 5.0}
    answers = io.StringIO()
    serve(io.StringIO(json.dumps(asked) + "\n"), answers)
    said = json.loads(answers.getvalue())
    plan = decode(Plan, said["plan"])
    assert violations(problem, plan) == ()
    assert {s.job for s in plan.segments} == {"a", "b"}


def test_the_process_answers_and_the_answer_is_adopted() -> None:
    state, answers = waiting(), queue.Queue[Answer]()
    slow = Slow(answers.put, every_seconds=0.0, solve_seconds=2.0)
    try:
        slow.ask(state)
        found = answers.get(timeout=120)
    finally:
        slow.end()
    assert found.plan is not None
    assert found.grid == state.problem().grid
    after = run(PlanArrived(at=at(0), plan=found.plan, grid=found.grid), state)
    assert after.prices == found.plan.prices


def test_a_process_that_dies_is_seen_and_another_is_started_for_the_next_question() -> None:
    deaths, answers = queue.Queue[str](), queue.Queue[Answer]()
    slow = Slow(
        answers.put, every_seconds=0.0, died=deaths.put, command=(sys.executable, "-c", ECHO, "-")
    )
    try:
        slow.ask(waiting())
        assert "ended with 3" in deaths.get(timeout=30)
        slow._command = (sys.executable, "-c", ECHO)
        slow.ask(replace(waiting(), decision=7))
        assert answers.get(timeout=30) == Answer(error="no")
    finally:
        slow.end()


def test_a_process_that_nobody_asks_is_ended_and_another_answers_later() -> None:
    answers = queue.Queue[Answer]()
    lasting = ECHO.replace("line = sys.stdin.readline()", "for line in sys.stdin:").replace(
        "\nsys.exit", "\n    sys.exit"
    )
    slow = Slow(
        answers.put, every_seconds=0.0, command=(sys.executable, "-c", lasting), idle_seconds=0.05
    )
    try:
        slow.ask(waiting())
        assert answers.get(timeout=30) == Answer(error="no")
        first = slow._process
        assert first is not None
        assert first.wait(30) != 0  # it was killed; by itself it would wait for the next question
        assert slow.pid is None
        slow.ask(replace(waiting(), decision=7))
        assert answers.get(timeout=30) == Answer(error="no")
    finally:
        slow.end()
