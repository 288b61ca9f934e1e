"""The plan of the whole queue, in a process of its own: never on the thread that reconciles.

A question goes out as a line of JSON, its answer comes back as one. The process is started when it
is first asked; when it dies, or answers with something else, it is started again after a while that
doubles. When nothing was asked for `IDLE_SECONDS` it is ended: it takes memory only where there is
something to plan. What is asked while it works is asked after that, the newest only.

    python -m scheduler.controller.slow     # a question a line on standard input
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from planner.codec import CodecError, decode, encode
from planner.plan import Plan
from planner.problem import Grid, Problem
from scheduler.controller.state import State

FIRST_BACK_OFF_SECONDS = 1.0
MOST_BACK_OFF_SECONDS = 60.0
IDLE_SECONDS = 120.0
REST = 3.0  # times as long as a plan took, nothing is planned: on a busy machine it is seldomer


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A plan, on the grid of its question; or why there is none."""

    plan: Plan | None = None
    grid: Grid | None = None
    error: str = ""


class Slow:
    """Asks every ``every_seconds``, and a quarter of the time, at most; tells in a thread."""

    def __init__(
        self,
        tell: Callable[[Answer], None],
        *,
        every_seconds: float = 10.0,
        solve_seconds: float = 5.0,
        died: Callable[[str], object] = sys.stderr.write,
        command: tuple[str, ...] = (sys.executable, "-m", "scheduler.controller.slow"),
        idle_seconds: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell, self._died, self._clock = tell, died, clock
        self._every, self._seconds = every_seconds, solve_seconds
        self._command, self._idle = command, idle_seconds
        self._process: subprocess.Popen[str] | None = None
        self._asked: State | None = None
        self._change = threading.Condition()
        self._ended = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="slow", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the process that plans; None where none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def ask(self, state: State) -> None:
        """Plan this, when there is time; an older question that waits is dropped."""
        with self._change:
            self._asked = state
            self._change.notify()

    def end(self) -> None:
        """Plan no more."""
        with self._change:
            self._ended = True
            self._change.notify()
        self._stop()

    def _run(self) -> None:
        while (state := self._next()) is not None:
            began = self._clock()
            answer = self._answer(state)
            if answer is not None:
                self._tell(answer)
            took = self._clock() - began
            wait = max(self._every - took, REST * took)
            if self._every <= 0:
                wait = 0.0
            if self._failures:
                wait = max(wait, _back_off(self._failures))
            with self._change:
                if not self._ended and wait > 0:
                    self._change.wait_for(lambda: self._ended, wait)

    def _next(self) -> State | None:
        with self._change:
            while self._asked is None and not self._ended:
                waits = self._process is not None
                if not self._change.wait(self._idle if waits else None) and self._asked is None:
                    self._stop()
            if self._ended:
                return None
            state, self._asked = self._asked, None
            return state

    def _answer(self, state: State) -> Answer | None:
        problem = state.problem()
        if not problem.jobs or not problem.pools:
            return None
        question = {"problem": encode(problem), "seconds": self._seconds}
        try:
            said = self._exchange(json.dumps(question, separators=(",", ":")))
            found = _read(said, problem.grid)
        except (OSError, ValueError) as error:  # CodecError is one
            self._stop()
            if self._ended:
                return None
            self._failures += 1
            self._died(f"{type(error).__name__}: {error}")
            return None
        self._failures = 0
        return found

    def _exchange(self, line: str) -> str:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        said = process.stdout.readline()
        if not said.endswith("\n"):
            raise OSError(f"it ended with {process.wait(5)}")
        return said

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(OSError):
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)


def _back_off(failures: int) -> float:
    return min(MOST_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2.0 ** (failures - 1))


def _read(said: str, grid: Grid) -> Answer:
    """Raises `ValueError` for what is no answer."""
    found = json.loads(said)
    if not isinstance(found, dict):
        raise CodecError(f"found {said[:60]!r}, allowed: an answer")
    if found.get("error"):
        return Answer(error=str(found["error"]))
    return Answer(plan=decode(Plan, found.get("plan"), "plan"), grid=grid)


# -- the process -----------------------------------------------------------------------------------


def answered(line: str) -> dict[str, Any]:
    """The answer to a question, as JSON has it."""
    from planner.solve.clock import Limits
    from planner.solve.pick import WrongPlan, solve
    from planner.table import Unsupported

    asked = json.loads(line)
    problem = decode(Problem, asked["problem"], "problem")
    try:
        plan = solve(problem, Limits(seconds=asked["seconds"], gap=None))
    except (Unsupported, WrongPlan) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"plan": encode(plan)}


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answer until there are no more questions."""
    for line in questions:
        answers.write(json.dumps(answered(line), separators=(",", ":")) + "\n")
        answers.flush()
        _trim()


def _trim() -> None:
    """What a plan took is given back at once, not kept for the next one."""
    import ctypes

    gc.collect()
    with suppress(OSError, AttributeError):  # another C library has no such thing
        ctypes.CDLL(None).malloc_trim(0)


def _give_way() -> None:
    """What reconciles, and the API server where it is on this machine, go first."""
    with suppress(OSError, AttributeError):  # elsewhere than on Linux there is none of it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with suppress(OSError):
        os.nice(10)


def main() -> None:
    """One question a line, with what is printed by mistake kept out of the answers."""
    _give_way()
    # OR-Tools loads pandas, and that Arrow where it is installed: 46 MiB that nothing here uses.
    sys.modules["pyarrow"] = None  # type: ignore[assignment]  # how an import is refused
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
