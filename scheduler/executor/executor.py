"""The thin loop around `decide`, and what the commands call: apply, submit, cancel, look.

Kill this process at any moment and call `apply_plan` again with the same plan: it reads the
journal, finds Ray by the state directory and goes on. A hand-over whose fate is unknown is
repeated under the same name, which Ray takes only once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from planner.plan import Plan
from planner.problem import Problem
from scheduler.executor import local_ray
from scheduler.executor.clock import clock_for
from scheduler.executor.cluster import Cluster, GivenRay, OwnRay
from scheduler.executor.decide import Action, Observed, Stop, Submit, decide
from scheduler.executor.errors import (
    BadRequestError,
    ExecutorError,
    RayRefusedError,
    RayUnreachableError,
)
from scheduler.executor.journal import Journal, StateDirectory, held
from scheduler.executor.launches import (
    Launch,
    launches,
    node_gpu_milli,
    run_id,
    with_stand_ins,
)
from scheduler.executor.ray_jobs import RayJobs, token_from
from scheduler.executor.records import (
    Ended,
    Ending,
    Record,
    Run,
    RunOpened,
    RunStatus,
    Settled,
    StopIntended,
    StopSent,
    SubmitIntended,
    Submitted,
)

POLL_SECONDS = 0.5
WALL_CLOCK_POLL_SECONDS = 2.0  # hours are hours: nobody waits for half a second
LOOK_SECONDS = 10.0  # a `get` beside us holds the lock for a moment

Say = Callable[[str], None]
Now = Callable[[], datetime]
Sleep = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a plan is carried out."""

    speed: float = 1.0  # plan seconds in a real second
    retries: int = 2  # after crashes, each launch
    stand_in: bool = False  # small programs of ours in place of the jobs
    keep_ray: bool = False  # leave our Ray running at the end
    address: str = ""  # dashboard of a given Ray; empty: one of our own
    environment: Mapping[str, str] = field(default_factory=dict)  # has a given Ray's token


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the loop reaches the outside through."""

    state: StateDirectory
    journal: Journal
    say: Say
    now: Now
    sleep: Sleep


def plan_launches(problem: Problem, plan: Plan, options: Options, cwd: Path) -> tuple[Launch, ...]:
    """What `apply_plan` would start. Raises `BadRequestError` for a job without an entrypoint."""
    made = launches(problem, plan, options.retries)
    if options.stand_in:
        return with_stand_ins(made, options.speed)
    if bare := sorted({launch.job for launch in made if not launch.entrypoint.strip()}):
        raise BadRequestError(
            f"{', '.join(bare)}: spec.run.entrypoint: found nothing, allowed: a command "
            "(or --stand-in for the whole plan)"
        )
    return tuple(anchored(launch, cwd) for launch in made)


def anchored(launch: Launch, cwd: Path) -> Launch:
    """A relative working_dir made absolute: the next run may start elsewhere."""
    runtime_env = json.loads(launch.runtime_env_json)
    folder = str(runtime_env.get("working_dir", ""))
    if not folder or "://" in folder:
        return launch
    runtime_env["working_dir"] = str((cwd / folder).resolve())
    return replace(launch, runtime_env_json=json.dumps(runtime_env, sort_keys=True))


def apply_plan(problem: Problem, plan: Plan, options: Options, world: World, cwd: Path) -> Run:
    """Carry ``plan`` out to its end, or go on where an earlier call was cut off.

    Returns how each launch ended. Raises `ExecutorError` where it cannot go on; what was started
    runs on, and the next call finds it.
    """
    made = plan_launches(problem, plan, options, cwd)
    name = run_id(made, options.speed)
    with held(world.state.lock, patience_seconds=LOOK_SECONDS) as ours:
        if not ours:
            raise ExecutorError(f"{world.state.root}: another flopwise works on it")
        runs = world.journal.refresh()
        _refuse_another(runs, name)
        if name in runs and runs[name].finished:
            world.say("this plan has been carried out already")
            _leave_ray(options, world)  # the last life may have ended just before it did
            return runs[name]
        if not made:
            raise BadRequestError("the plan places no job: there is nothing to start")
        nodes = node_gpu_milli(problem, made)
        cluster = _cluster(made, nodes, options, world)
        cluster.jobs(())  # nothing is written down for a Ray that does not answer
        if name not in runs:
            now = world.now()
            clock = clock_for(problem.grid.start, now, options.speed)
            opened = RunOpened(run=name, at=now, clock=clock, launches=made, planned=True)
            world.journal.append(opened)
            _say_wait(clock.real_time(made[0].start), now, world.say)
        run = carry_out(name, cluster, nodes, world)
        _note_submitted(world)
        _leave_ray(options, world)
        return run


def _say_wait(first: datetime, now: datetime, say: Say) -> None:
    if first > now:
        say(f"the first job starts at {first.astimezone():%Y-%m-%d %H:%M:%S %Z}")


def _refuse_another(runs: Mapping[str, Run], name: str) -> None:
    for other in runs.values():
        if other.planned and not other.finished and other.name != name:
            raise ExecutorError(
                f"this state directory holds an unfinished plan of {other.opened:%Y-%m-%d %H:%M}: "
                "go on with it (the same plan, the same options), end it with "
                "`flopwise cancel --all`, or choose another --state-dir"
            )


def _cluster(
    made: tuple[Launch, ...], nodes: Mapping[str, int], options: Options, world: World
) -> Cluster:
    if options.address:
        return given_ray(options.address, options.environment)
    whole = replace(made[0], gpu_milli=tuple(nodes.items())).resources
    return own_ray(whole, world)


def given_ray(address: str, environment: Mapping[str, str]) -> GivenRay:
    """The Ray whose dashboard is at ``address`` (``host:port`` or a URL)."""
    url = address.rstrip("/") if "://" in address else f"http://{address}"
    return GivenRay(RayJobs(url=url, token=token_from(environment)))


def own_ray(resources: Mapping[str, float], world: World) -> OwnRay:
    """Our own Ray, started where there is none."""

    def busy() -> bool:
        _note_submitted(world)
        return _in_use(world)

    head = local_ray.ensure(world.state, resources, busy=busy, say=world.say)
    return OwnRay(world.state, head, say=world.say)


def _in_use(world: World) -> bool:
    """Whether jobs that have not ended depend on our Ray."""
    runs = world.journal.refresh().values()
    return any(not run.finished and not run.address for run in runs)


def _note_submitted(world: World) -> None:
    """What has ended of the jobs that were submitted by themselves to our Ray."""
    head = local_ray.recorded(world.state)
    if head is None or not local_ray.alive(head):
        return
    cluster = OwnRay(world.state, head, say=world.say)
    for run in tuple(world.journal.refresh().values()):
        if not (run.finished or run.planned or run.address):
            with suppress(RayUnreachableError):
                step(run, cluster, {}, world, only=(Ended, Settled))


def _leave_ray(options: Options, world: World) -> None:
    """Stop our Ray at the end of a plan, unless it is wanted or others' jobs run on it."""
    head = local_ray.recorded(world.state)
    if options.address or head is None:
        return
    if options.keep_ray:
        world.say(f"Ray keeps running: {head.url}")
    elif _in_use(world):
        world.say("Ray keeps running for the jobs submitted beside the plan")
    else:
        local_ray.stop(world.state, head)


def carry_out(name: str, cluster: Cluster, nodes: Mapping[str, int], world: World) -> Run:
    """Look, decide, act, until every launch of run ``name`` is settled."""
    while True:
        run = world.journal.refresh()[name]
        if run.finished:
            return run
        try:
            step(run, cluster, nodes, world)
        except RayUnreachableError:
            cluster.revive()
        world.sleep(WALL_CLOCK_POLL_SECONDS if run.clock.speed == 1 else POLL_SECONDS)


def step(
    run: Run,
    cluster: Cluster,
    nodes: Mapping[str, int],
    world: World,
    only: tuple[type[Action], ...] = (Ended, Settled, Stop, Submit),
) -> None:
    """One pass over one run; ``only`` these kinds of action are carried out."""
    observed = Observed(
        run=run.name,
        records=run.records,
        jobs=cluster.jobs(run.open_ids),
        head=cluster.head,
        clock=run.clock,
        node_gpu_milli=nodes,
    )
    order = tuple(record.launch for record in run.records.values())
    for action in decide(observed, order, world.now()):
        if isinstance(action, only):
            _act(action, run, cluster, world)


def _act(action: Action, run: Run, cluster: Cluster, world: World) -> None:
    match action:
        case Ended():
            _keep_log(run.records[action.launch], action.attempt, cluster, world.state)
            world.journal.append(action)
            _say_ended(action, run, world)
        case Settled():
            world.journal.append(action)
            if action.message:
                world.say(f"{action.launch}: {action.outcome} ({action.message})")
        case Stop():
            _stop(action, run.name, cluster, world.journal)
        case Submit():
            _submit(action, run, cluster, world)


def _stop(action: Stop, run: str, cluster: Cluster, journal: Journal) -> None:
    journal.append(
        StopIntended(run=run, launch=action.launch, attempt=action.attempt, reason=action.reason)
    )
    cluster.stop(action.submission_id)
    journal.append(StopSent(run=run, launch=action.launch, attempt=action.attempt))


def _submit(action: Submit, run: Run, cluster: Cluster, world: World) -> None:
    launch, attempt, now = action.launch, action.attempt, world.now()
    world.journal.append(
        SubmitIntended(run=run.name, launch=launch.name, attempt=attempt, head=cluster.head, at=now)
    )
    try:
        cluster.submit(action.submission_id, launch)
    except (RayRefusedError, BadRequestError) as error:
        ending = Ending(status=RunStatus.FAILED, end=now, message=str(error))
        ended = Ended(run=run.name, launch=launch.name, attempt=attempt, ending=ending)
        world.journal.append(ended)
        _say_ended(ended, run, world)
        return
    world.journal.append(Submitted(run=run.name, launch=launch.name, attempt=attempt))
    again = f", attempt {attempt}" if attempt > 1 else ""
    world.say(f"{_plan_time(run, now)} {launch.name}: started{_where(launch)}{again}")


def _where(launch: Launch) -> str:
    if not launch.gpu_milli:
        return ""
    gpus = "1 GPU" if launch.gpus == 1 else f"{launch.gpus:g} GPUs"
    return f" with {gpus} on {', '.join(node for node, _ in launch.gpu_milli)}"


def _say_ended(event: Ended, run: Run, world: World) -> None:
    ending = event.ending
    code = "" if ending.exit_code is None else f", exit status {ending.exit_code}"
    told = f", {ending.message}" if ending.message else ""
    status = ending.status.lower()
    world.say(f"{_plan_time(run, ending.end)} {event.launch}: {status}{code}{told}")


def _plan_time(run: Run, now: datetime) -> str:
    return f"[{run.clock.plan_time(now):%m-%d %H:%M}]"


def _keep_log(record: Record, attempt: int, cluster: Cluster, state: StateDirectory) -> None:
    """Copy an attempt's log before its end is written down."""
    name = next(a.submission_id for a in record.attempts if a.number == attempt)
    try:
        text = cluster.log(name)
    except RayRefusedError:
        return  # it never got as far as a log
    if text or not state.log(name).exists():
        state.log(name).write_text(text, encoding="utf-8")
