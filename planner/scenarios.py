"""Many problems at once: one after the other here, or each as a task of a Ray.

DOOR ray. A task carries a problem and brings back its plan as JSON; nothing that others wrote is
ever unpickled. The plans come in the order of the problems and are those that the sequential run
finds, as far as the time of a search allows the same: whole where it is proved or stops by itself.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from planner.check import violations
from planner.codec import decode, encode
from planner.plan import Plan
from planner.problem import Problem

if TYPE_CHECKING:
    from planner.solve.clock import Limits, Step, Stop

CONNECT_SECONDS = 5.0
GRACE_SECONDS = 60.0  # of a task beside its search: its start, reading, the check
GRACE_SHARE = 0.5
STORE_BYTES = 100 * 2**20
QUIET = {"log_to_driver": False, "logging_level": "ERROR"}


class ScenarioError(RuntimeError):
    """Scenarios that were not solved: one line that says what kept them from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ray:
    """Where tasks go: a Ray at ``address`` (HOST:PORT, ray://HOST:PORT), or one of our own.

    A given Ray needs this package on its nodes; its token is read as Ray reads it, from
    RAY_AUTH_MODE and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
    """

    address: str = ""


def solve_here(
    problems: Sequence[Problem],
    limits: Limits,
    listen: Callable[[Step], None],
    stop: Stop,
    known: Plan | None = None,
) -> Iterator[Plan]:
    """The plans, one after the other, until ``stop``; the first is always there.

    ``known`` is a plan of a problem near them, from which each search starts.
    """
    from planner.solve.pick import solve

    for number, problem in enumerate(problems):
        if number and stop.asked:
            return
        yield solve(problem, limits, listen, stop, known=known)


def solve_on(
    ray: Ray, problems: Sequence[Problem], limits: Limits, known: Plan | None = None
) -> list[Plan]:
    """The plans, found side by side, from ``known`` as `solve_here` has it.

    Raises `ScenarioError`, `planner.table.Unsupported`.
    """
    shared = {"limits": encode(limits), "known": None if known is None else encode(known)}
    tasks = [json.dumps({"problem": encode(p), **shared}) for p in problems]
    with connected(ray, most=len(tasks)) as library:
        seconds = _patience(limits.seconds, len(tasks), library.cluster_resources().get("CPU", 1.0))
        solve = library.remote(num_cpus=1, max_retries=1)(_solve)
        asked = [solve.remote(task) for task in tasks]
        try:
            answers = library.get(asked, timeout=seconds)
        except library.exceptions.GetTimeoutError:
            raise ScenarioError(f"Ray: no answer within {seconds:.0f} s") from None
        except library.exceptions.RayError as error:
            raise ScenarioError(f"Ray: {last_line(error)}") from None
    plans = [_plan(answer) for answer in answers]
    for problem, plan in zip(problems, plans, strict=True):
        if wrong := violations(problem, plan):
            raise ScenarioError(f"Ray: a plan that does not hold: {wrong[0]}")
    return plans


def _patience(seconds: float, tasks: int, cpus: float) -> float:
    """Seconds to wait for ``tasks``, each of ``seconds``, on so many CPUs."""
    waves = math.ceil(tasks / max(1.0, cpus))
    return GRACE_SECONDS + waves * (GRACE_SECONDS + seconds * (1 + GRACE_SHARE))


@contextmanager
def connected(ray: Ray, *, most: int = 1024) -> Iterator[Any]:
    """The Ray library, connected; one of our own has up to ``most`` CPUs and ends with this.

    Raises `ScenarioError` where there is none.
    """
    library = _library()
    if library.is_initialized() and not ray.address:
        yield library
        return
    try:
        if ray.address:
            _reachable(ray.address)
            library.init(address=ray.address, **QUIET)
        else:
            _start(library, min(most, os.cpu_count() or 1))
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ScenarioError(
            f"Ray{f' at {ray.address}' if ray.address else ''}: {last_line(error)}"
        ) from None
    try:
        yield library
    finally:
        library.shutdown()


def _start(library: Any, cpus: int) -> None:
    """A Ray of our own, that only who knows this process's token can use."""
    os.environ.setdefault("RAY_AUTH_TOKEN", _token())
    library.init(
        address="local",
        num_cpus=max(1, cpus),
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        **QUIET,
    )


@cache
def _token() -> str:
    """One for the life of the process, as Ray reads it once; without, Ray writes one at home."""
    return secrets.token_hex(32)


def _library() -> Any:
    try:
        import ray
    except ImportError:
        raise ScenarioError("Ray is not installed: pip install 'flopwise[ray]'") from None
    return ray


def _reachable(address: str) -> None:
    """Ask for a connection first: Ray itself tries for a minute. Raises OSError, ValueError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"found {address!r}, allowed: HOST:PORT or ray://HOST:PORT")
    socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _solve(task: str) -> str:
    """A task: a problem and limits to a plan, or to what kept it from one."""
    from planner.solve.clock import Limits
    from planner.solve.pick import solve
    from planner.table import Unsupported

    asked = json.loads(task)
    known = decode(Plan, asked["known"]) if asked.get("known") else None
    try:
        plan = solve(
            decode(Problem, asked["problem"]), decode(Limits, asked["limits"]), known=known
        )
    except Unsupported as error:
        return json.dumps({"unsupported": str(error)})
    return json.dumps({"plan": encode(plan)})


def _plan(answer: str) -> Plan:
    from planner.table import Unsupported

    found = json.loads(answer)
    if "unsupported" in found:
        raise Unsupported(found["unsupported"])
    return decode(Plan, found["plan"])


def last_line(error: BaseException) -> str:
    """The last line of an error of Ray's, which begin with a traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].strip()[:200]
