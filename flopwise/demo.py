"""``flopwise demo``: the whole way on the bundled example: plan, run, measure, report."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from flopwise.apply import apply
from flopwise.errors import BAD_INPUT, FAILED, INTERRUPTED, Fail
from flopwise.jobs import fails_plainly, world_of
from flopwise.report import html
from flopwise.telemetry import Output, add_samples, show_usage

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MARK = ".flopwise-demo"  # in the folder that the demo made, and may make anew
PLAN_SECONDS = 20.0


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the plan, the runs and the report.")] = Path(
        "out/demo"
    ),
    speed: Annotated[float, typer.Option(min=1.0, help="Plan seconds in a real second.")] = 10_000,
) -> None:
    """Plan the bundled week, run it on a local Ray with stand-ins, measure, and write the report.

    A later demo in the same folder makes it anew.
    """
    if not EXAMPLES.is_dir():
        raise Fail(f"{EXAMPLES}: the bundled example is not there: run it from a clone", BAD_INPUT)
    _fresh(out)
    plan_file, state, samples = out / "plan.json", out / "runs", out / "samples.jsonl"
    _step(1, f"plan: flopwise plan -f examples --out {plan_file}")
    _plan(plan_file)
    _step(2, f"run: flopwise apply -f {plan_file} --stand-in --speed {speed:g} --state-dir {state}")
    with _gpus_measured(samples):
        ended_well = _run(plan_file, state, speed)
    _step(3, "measure: what the GPUs of this machine did meanwhile")
    _usage(samples)
    _step(4, f"report: flopwise report html -f {plan_file} --runs {state}")
    _report(plan_file, state, out / "report.html")
    typer.echo(f"\nThe report: {(out / 'report.html').resolve()}")
    if not ended_well:
        raise Fail(
            f"some stand-ins did not end well: flopwise get jobs --state-dir {state}", FAILED
        )


def _step(number: int, text: str) -> None:
    typer.echo(f"\n== {number}/4 {text}\n", err=True)


def _fresh(out: Path) -> None:
    """An empty folder of the demo's own; what others made is never touched."""
    if out.exists() and not (out / MARK).exists() and any(out.iterdir()):
        raise Fail(f"{out}: is not a folder of the demo; name another with --out", BAD_INPUT)
    if (out / "runs").exists():
        _end_old_runs(out / "runs")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()


def _end_old_runs(state: Path) -> None:
    """What an interrupted demo left running, Ray included."""
    from scheduler.executor.control import cancel_all
    from scheduler.executor.executor import Options

    with fails_plainly():
        world = world_of(state, lambda: datetime.now(UTC), time.sleep)
        cancel_all(Options(environment=os.environ), world)


def _plan(plan_file: Path) -> None:
    from flopwise import plan_text
    from flopwise.plan import solved
    from planner.planfile import write_plan
    from planner.question import Horizon

    made = solved(
        [str(EXAMPLES)],
        Horizon(length=timedelta(days=7)),
        seconds=PLAN_SECONDS,
        gap=None,
        seed=0,
    )
    if made.plan.stopped:
        raise Fail("interrupted", INTERRUPTED)
    typer.echo(plan_text.as_text(made, wide=False))
    write_plan(plan_file, made)


def _run(plan_file: Path, state: Path, speed: float) -> bool:
    """Whether every stand-in ended well."""
    try:
        apply(plan_file, speed=speed, stand_in=True, state_dir=state)
    except typer.Exit as ended:
        if ended.exit_code != FAILED:
            raise
        return False
    return True


@contextmanager
def _gpus_measured(samples: Path) -> Iterator[None]:
    """Samples of this machine's GPUs, each second; none where there is no driver."""
    from telemetry.nvml import NvmlUnavailableError

    def watch() -> None:
        try:
            add_samples(_ticks(stop), samples)
        except NvmlUnavailableError:
            typer.echo("no NVIDIA driver here: no GPU is measured, and none is needed", err=True)

    stop = threading.Event()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join(timeout=5)


def _ticks(stop: threading.Event) -> Iterator[None]:
    yield
    while not stop.wait(1.0):
        yield


def _usage(samples: Path) -> None:
    if samples.exists():
        show_usage(samples, Output.TABLE)
    else:
        typer.echo(
            "no NVIDIA GPU here, so none was measured; the report has the stand-ins' own times"
        )


def _report(plan_file: Path, state: Path, target: Path) -> None:
    html(plan_file, runs=state, out=target, title="A week of the bundled example")
