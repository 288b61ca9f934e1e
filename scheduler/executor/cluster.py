"""The two Rays that a plan can run on: one of our own, and one that is given by its address."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from scheduler.executor import guard, local_ray
from scheduler.executor.decide import RayJob
from scheduler.executor.errors import RayRefusedError, RayUnreachableError
from scheduler.executor.journal import StateDirectory
from scheduler.executor.launches import Launch
from scheduler.executor.local_ray import Head
from scheduler.executor.ray_jobs import RayJobs
from scheduler.executor.records import RunStatus

SILENCE_SECONDS = 60.0  # a head that runs but does not answer for so long is started again
_RUNNING = frozenset({RunStatus.PENDING, RunStatus.RUNNING})


class Cluster(Protocol):
    """What the executor needs of a Ray. Each call may raise `RayUnreachableError`."""

    @property
    def head(self) -> str:
        """Which Ray this is: another name after its jobs were lost."""

    def jobs(self, wanted: Collection[str]) -> Mapping[str, RayJob]:
        """What is known of the ``wanted`` submission ids; those that nobody knows are left out."""

    def submit(self, submission_id: str, launch: Launch) -> None:
        """Start a launch; once, however often it is called with the same id."""

    def stop(self, submission_id: str) -> None:
        """Ask for a job to be stopped."""

    def log(self, submission_id: str) -> str:
        """What a job has written so far."""

    def revive(self) -> bool:
        """After a call failed: start Ray again where it is dead. Whether that was needed."""


class GivenRay:
    """A Ray that others run, by the address of its dashboard."""

    def __init__(self, jobs: RayJobs) -> None:
        self._jobs = jobs

    @property
    def head(self) -> str:
        return self._jobs.url

    def jobs(self, wanted: Collection[str]) -> Mapping[str, RayJob]:
        return _among(wanted, self._jobs.jobs())

    def submit(self, submission_id: str, launch: Launch) -> None:
        _submit(self._jobs, submission_id, launch, launch.entrypoint)

    def stop(self, submission_id: str) -> None:
        self._jobs.stop(submission_id)

    def log(self, submission_id: str) -> str:
        return self._jobs.log(submission_id)

    def revive(self) -> bool:
        return False  # its owners' task; we ask again until it answers


class OwnRay:
    """Our own head on this machine, with a guard around each job."""

    def __init__(
        self,
        state: StateDirectory,
        head: Head,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        say: Callable[[str], None],
    ) -> None:
        self._state = state
        self._head = head
        self._jobs = local_ray.client(state, head)
        self._monotonic = monotonic
        self._say = say
        self._silent_since: float | None = None

    @property
    def head(self) -> str:
        return self._head.name

    def jobs(self, wanted: Collection[str]) -> Mapping[str, RayJob]:
        if not local_ray.alive(self._head):
            raise RayUnreachableError("Ray is dead")
        found = _among(wanted, self._jobs.jobs())
        self._silent_since = None
        timed = {name: self._timed(name, job) for name, job in found.items()}
        return {**ended_by_report(self._state, set(wanted) - set(found)), **timed}

    def _timed(self, name: str, job: RayJob) -> RayJob:
        """``job`` with the guard's times: Ray's begin when it was handed over, not when it ran."""
        report = read_report(self._state, name)
        if report is None:
            return replace(job, start=None) if job.status in _RUNNING else job
        return replace(job, start=report.start, end=report.end or job.end)

    def submit(self, submission_id: str, launch: Launch) -> None:
        guarded = guard.command(self._state.report(submission_id), launch.entrypoint)
        _submit(self._jobs, submission_id, launch, guarded)

    def stop(self, submission_id: str) -> None:
        self._jobs.stop(submission_id)

    def log(self, submission_id: str) -> str:
        try:
            return self._jobs.log(submission_id)
        except (RayRefusedError, RayUnreachableError):
            return local_ray.read_log(self._head, submission_id)

    def revive(self) -> bool:
        now = self._monotonic()
        self._silent_since = now if self._silent_since is None else self._silent_since
        if local_ray.alive(self._head) and now - self._silent_since < SILENCE_SECONDS:
            return False
        self._say("Ray has died: starting it again")
        keep_logs(self._state, self._head)
        local_ray.stop(self._state, self._head)
        resources = dict(self._head.resources)
        self._head = local_ray.ensure(self._state, resources, busy=lambda: False, say=self._say)
        self._jobs = local_ray.client(self._state, self._head)
        self._silent_since = None
        return True


class NoRay:
    """Our own Ray where it is dead and nobody asks for a new one: only what is on disk counts."""

    head = ""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state

    def jobs(self, wanted: Collection[str]) -> Mapping[str, RayJob]:
        return ended_by_report(self._state, wanted)

    def submit(self, submission_id: str, launch: Launch) -> None:
        raise RayUnreachableError(f"no Ray to start {launch.name} on ({submission_id})")

    def stop(self, submission_id: str) -> None:
        pass  # it died with its Ray

    def log(self, submission_id: str) -> str:
        head = local_ray.recorded(self._state)
        return local_ray.read_log(head, submission_id) if head else ""

    def revive(self) -> bool:
        return False


def _submit(jobs: RayJobs, submission_id: str, launch: Launch, entrypoint: str) -> None:
    runtime_env: dict[str, Any] = json.loads(launch.runtime_env_json)
    told = {
        "FLOPWISE_JOB": launch.job,
        "FLOPWISE_LAUNCH": launch.name,
        "FLOPWISE_POOL": launch.pool,
        "FLOPWISE_REPLICAS": str(launch.replicas),
        "FLOPWISE_GPUS": f"{launch.gpus:g}",
        "FLOPWISE_NODES": ",".join(node for node, _ in launch.gpu_milli),
    }
    runtime_env["env_vars"] = {**told, **runtime_env.get("env_vars", {})}
    jobs.submit(
        submission_id=submission_id,
        entrypoint=entrypoint,
        resources=launch.resources,
        runtime_env=runtime_env,
        metadata={"flopwise.dev/team": launch.team, "flopwise.dev/queue": launch.queue},
    )


def read_report(state: StateDirectory, submission_id: str) -> RayJob | None:
    """What the guard of an attempt left behind; None where it has not started."""
    try:
        data = json.loads(state.report(submission_id).read_bytes())
    except (OSError, ValueError):
        return None
    start = datetime.fromtimestamp(data["start"], UTC)
    if "exitCode" not in data:
        return RayJob(status=RunStatus.RUNNING, start=start)
    code = int(data["exitCode"])
    return RayJob(
        status=RunStatus.FAILED if code else RunStatus.SUCCEEDED,
        start=start,
        end=datetime.fromtimestamp(data["end"], UTC),
        exit_code=code,
    )


def ended_by_report(state: StateDirectory, wanted: Collection[str]) -> dict[str, RayJob]:
    """Those of ``wanted`` that ended, by their guards: it counts where Ray remembers nothing."""
    found = {name: read_report(state, name) for name in sorted(wanted)}
    return {name: job for name, job in found.items() if job and job.end}


def _among(wanted: Collection[str], jobs: Mapping[str, RayJob]) -> dict[str, RayJob]:
    return {name: jobs[name] for name in wanted if name in jobs}


def keep_logs(state: StateDirectory, head: Head) -> None:
    """Copy the logs that a dead head leaves, before its folder goes."""
    for name in local_ray.logged(head):
        if not state.log(name).exists():
            state.log(name).write_text(local_ray.read_log(head, name), encoding="utf-8")
