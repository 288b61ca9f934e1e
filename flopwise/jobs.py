"""``flopwise submit``, ``get``, ``status``, ``logs``, ``cancel``: jobs, here or in a cluster.

With a context of a cluster they are its GpuJobs (`flopwise.cluster_jobs`); else those that this
machine's Ray runs.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flopwise.context import Context, DryRun, DryRunOption, Kubeconfig, Namespace, connected
from flopwise.errors import BAD_INPUT, FAILED, INTERRUPTED, NOT_FOUND, Fail
from planner.manifests.errors import plain

if TYPE_CHECKING:
    from planner.manifests.schema import GpuJob
    from scheduler.executor.control import JobView
    from scheduler.executor.executor import Options, World
    from scheduler.executor.launches import Launch

FOLLOW_SECONDS = 1.0


class Output(StrEnum):
    """How rows are printed: some columns, all, or for another program."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    CSV = "csv"


class Kind(StrEnum):
    """What can be listed."""

    JOBS = "jobs"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How rows are printed.")]
AddressOption = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT", help="Dashboard of a given Ray; default: one of our own, started here."
    ),
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where jobs are remembered; default: $FLOPWISE_STATE_DIR, else the XDG state folder.",
    ),
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job, or a part of one: JOB_2.")]

_SHORT = ("name", "status", "attempts", "pool", "gpus", "start", "end", "exitCode")


def submit(
    file: Annotated[Path, typer.Option("-f", "--file", metavar="FILE", help="One GpuJob; - too.")],
    address: AddressOption = "",
    state_dir: StateOption = None,
    dry_run: DryRunOption = DryRun.NONE,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Run one job: here now, without a plan; in a cluster when its operator says.

    Prints its name; `logs -f` follows it.
    """
    if _is_cluster(context, kubeconfig, state_dir, address=address):
        from flopwise import cluster_jobs

        with connected(context, kubeconfig) as kube:
            cluster_jobs.submit(kube, file, namespace, dry_run)
        return
    _here_is_no_server(dry_run)
    with fails_plainly():
        from scheduler.executor.control import submit_job
        from scheduler.executor.executor import Options, anchored

        world = _world(state_dir)
        launch = anchored(_launch_of(_only_job(file), world.now()), Path.cwd())
        if dry_run is DryRun.CLIENT:
            typer.echo(launch.name)
            return
        submit_job(launch, Options(address=address, environment=os.environ), world)
        say("it runs at once and holds no GPU of a plan")
        if not address:
            say("our Ray keeps running: `flopwise cancel --all` ends both")
        typer.echo(launch.name)


def get(
    kind: Annotated[Kind, typer.Argument(help="What to list.")] = Kind.JOBS,
    state_dir: StateOption = None,
    output: OutputOption = Output.TABLE,
    everywhere: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="In a cluster: of all namespaces.")
    ] = False,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """List the jobs of this state directory, those of a plan and those submitted."""
    del kind  # jobs are all there is
    if _is_cluster(context, kubeconfig, state_dir):
        from flopwise import cluster_jobs

        with connected(context, kubeconfig) as kube:
            cluster_jobs.get(kube, "" if everywhere else namespace or kube.namespace, output)
        return
    with fails_plainly():
        views = _look(state_dir)[2]
        print_views(views, output)
        if not views:
            say("no jobs in this state directory")


def status(
    job: JobArgument,
    state_dir: StateOption = None,
    output: OutputOption = Output.WIDE,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Say where a job stands, with each of its parts."""
    if _is_cluster(context, kubeconfig, state_dir):
        from flopwise import cluster_jobs

        with connected(context, kubeconfig) as kube:
            cluster_jobs.status(kube, job, namespace or kube.namespace, output)
        return
    with fails_plainly():
        from scheduler.executor.control import find

        print_views(find(_look(state_dir)[2], job), output)


def logs(
    job: JobArgument,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the job has ended.")
    ] = False,
    state_dir: StateOption = None,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Print what a job has written; of several parts, one after the other."""
    if _is_cluster(context, kubeconfig, state_dir):
        from flopwise import cluster_jobs

        with connected(context, kubeconfig) as kube, left_plainly():
            for text in cluster_jobs.logs(kube, job, namespace or kube.namespace, follow=follow):
                typer.echo(text, nl=False)
        return
    with fails_plainly():
        from scheduler.executor.control import find

        for view in find(_look(state_dir)[2], job):
            for text in _log(view, state_dir, follow):
                typer.echo(text, nl=False)


def cancel(
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="JOB...", help="Jobs, or parts of them.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All jobs; waits for them, and stops our Ray.")
    ] = False,
    state_dir: StateOption = None,
    dry_run: DryRunOption = DryRun.NONE,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Stop jobs that run, and do not start those that wait. What has ended stays as it is.

    In a cluster their GpuJobs are deleted, with all that carries them out.
    """
    if everything == bool(jobs):
        raise typer.BadParameter("name jobs, or give --all")
    if _is_cluster(context, kubeconfig, state_dir):
        from flopwise import cluster_jobs

        with connected(context, kubeconfig) as kube:
            cluster_jobs.cancel(kube, tuple(jobs or ()), namespace or kube.namespace, dry_run)
        return
    _here_is_no_server(dry_run)
    with fails_plainly():
        from scheduler.executor.control import cancel as cancel_views
        from scheduler.executor.control import cancel_all, find

        options, world, views = _look(state_dir)
        if dry_run is DryRun.CLIENT:
            wanted = (
                list(views) if everything else [v for job in jobs or () for v in find(views, job)]
            )
            names = tuple(view.launch.name for view in wanted if not view.settled)
        elif everything:
            names = cancel_all(options, world)
        else:
            wanted = [view for job in jobs or () for view in find(views, job)]
            names = cancel_views(wanted, options, world)
        for name in names:
            typer.echo(f"{name} cancelled")
        if not names:
            say("nothing to cancel: all of it has ended")


def _is_cluster(
    context: str, kubeconfig: str, state_dir: Path | None, *, address: str = ""
) -> bool:
    """Whether the jobs are those of a cluster; what is for this machine alone is refused there."""
    if not (context or kubeconfig):
        return False
    for name, value in (("--state-dir", state_dir), ("--address", address)):
        if value:
            raise typer.BadParameter(f"found {name} beside a cluster, allowed: one of them")
    return True


def _here_is_no_server(dry_run: DryRun) -> None:
    if dry_run is DryRun.SERVER:
        raise typer.BadParameter("--dry-run: found server without a cluster, allowed: none, client")


@contextmanager
def left_plainly() -> Iterator[None]:
    """Ctrl-C ends what only looks."""
    try:
        yield
    except KeyboardInterrupt:
        raise Fail("left: the job goes on", INTERRUPTED) from None


@contextmanager
def fails_plainly() -> Iterator[None]:
    """What the executor cannot do ends the command in one line, with the exit code for it."""
    from scheduler.executor.errors import BadRequestError, ExecutorError, NotFoundError

    codes = {BadRequestError: BAD_INPUT, NotFoundError: NOT_FOUND}
    try:
        yield
    except ExecutorError as error:
        raise Fail(str(error), codes.get(type(error), FAILED)) from None
    except KeyboardInterrupt:
        told = "left: jobs run on; the same command goes on, `flopwise cancel --all` ends them"
        raise Fail(told, INTERRUPTED) from None


def say(message: str) -> None:
    """A message for people: standard error."""
    typer.echo(plain(message), err=True)


def world_of(
    state_dir: Path | None, now: Callable[[], datetime], sleep: Callable[[float], None]
) -> World:
    """The state directory, opened, with the clock to use."""
    from scheduler.executor.executor import World
    from scheduler.executor.journal import Journal, StateDirectory, default_root

    # Absolute, for Ray's processes are started elsewhere.
    state = StateDirectory(root=(state_dir or default_root(os.environ)).absolute())
    state.create()
    return World(state=state, journal=Journal(state.journal), say=say, now=now, sleep=sleep)


def _world(state_dir: Path | None) -> World:
    return world_of(state_dir, lambda: datetime.now(UTC), time.sleep)


def _look(state_dir: Path | None) -> tuple[Options, World, tuple[JobView, ...]]:
    from scheduler.executor.control import look
    from scheduler.executor.executor import Options

    options, world = Options(environment=os.environ), _world(state_dir)
    return options, world, look(options, world)


def _log(view: JobView, state_dir: Path | None, follow: bool) -> Iterator[str]:
    """A launch's log, and while it is followed, what is added to it."""
    from scheduler.executor.control import find, read_log

    shown = 0
    while True:
        options, world, views = _look(state_dir)
        view = next(v for v in find(views, view.launch.name) if v.run == view.run)
        text = read_log(view, options, world)
        yield text[shown:]
        shown = len(text)
        if view.settled or not follow:
            return
        time.sleep(FOLLOW_SECONDS)


def _only_job(file: Path) -> GpuJob:
    from planner.manifests.read import read
    from scheduler.executor.errors import BadRequestError

    found = read([file], references=False).jobs
    if len(found) != 1:
        raise BadRequestError(f"{file}: found {len(found)} GpuJobs, allowed: one")
    if not found[0].spec.run.entrypoint.strip():
        name = found[0].metadata.name
        raise BadRequestError(f"{file}: {name}: spec.run.entrypoint: found nothing to run")
    return found[0]


def _launch_of(job: GpuJob, now: datetime) -> Launch:
    from scheduler.executor.launches import Launch

    labels = job.metadata.labels
    return Launch(
        name=job.metadata.name,
        job=job.metadata.name,
        namespace=job.metadata.namespace,
        entrypoint=job.spec.run.entrypoint,
        runtime_env_json=json.dumps(job.spec.run.runtime_env),
        team=labels.get("flopwise.dev/team", job.spec.queue),
        project=labels.get("flopwise.dev/project", ""),
        queue=job.spec.queue,
        start=now,
        end=now,
        attempt_limit=1,
        loss_limit=1,
    )


def print_views(views: Iterable[JobView], output: Output) -> None:
    """Jobs as rows on standard output."""
    rows = [_row(view) for view in views]
    if output is Output.TABLE:
        rows = [{name: row[name] for name in _SHORT} for row in rows]
    print_rows(rows, output)


def print_rows(rows: Sequence[Mapping[str, Any]], output: Output) -> None:
    """Rows of the same columns on standard output."""
    if output is Output.JSON:
        typer.echo(json.dumps(rows, indent=1))
    elif output is Output.CSV and rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    elif rows:
        _print_table(rows)


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [[_cell(value) for value in row.values()] for row in rows]
    lines.insert(0, [_heading(name) for name in rows[0]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _heading(name: str) -> str:
    return "".join(f" {c}" if c.isupper() else c for c in name).upper()


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:g}" if isinstance(value, float) else plain(str(value))


def _row(view: JobView) -> dict[str, Any]:
    launch = view.launch
    return {
        "name": launch.name,
        "status": view.status,
        "attempts": view.attempts,
        "pool": launch.pool,
        "gpus": launch.gpus,
        "nodes": ",".join(node for node, _ in launch.gpu_milli),
        "start": _time(view.start),
        "end": _time(view.end),
        "exitCode": view.exit_code,
        "job": launch.job,
        "namespace": launch.namespace,
        "team": launch.team,
        "queue": launch.queue,
        "plannedStart": _time(launch.start),
        "plannedEnd": _time(launch.end),
        "run": view.run,
        "message": view.message,
    }


def _time(when: datetime | None) -> str | None:
    return when.isoformat(timespec="seconds") if when else None
