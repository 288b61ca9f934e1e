"""``flopwise demo``: the whole way on the bundled example: plan, run, measure, report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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
from flopwise.report import write_html
from flopwise.telemetry import Output, show_usage

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
FAKE_SOURCE = ROOT / "tests" / "telemetry" / "fake_nvml" / "fake_nvml.c"
FAKE = (
    "There is no NVIDIA driver on this machine: a fake one stands in, which shows that measuring"
    " works, and says nothing of any GPU."
)
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
    with _gpus_measured(samples, out) as source:
        ended_well = _run(plan_file, state, speed)
    _step(3, "measure: what the GPUs of this machine did meanwhile")
    _usage(samples)
    _step(4, f"report: flopwise report html -f {plan_file} --runs {state} --samples {samples}")
    _report(plan_file, state, samples, source, out / "report.html")
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
def _gpus_measured(samples: Path, work: Path) -> Iterator[str]:
    """Samples each second of this machine's GPUs, or of a fake driver's; yields what it says of it.

    In a process of its own: the driver is found by the environment that a process starts with.
    """
    driver = "" if _has_driver() else _fake_driver(work)
    if driver is None:
        typer.echo("no NVIDIA driver here, and no C compiler for a fake one: no GPU is measured")
        yield ""
        return
    source = FAKE if driver else ""
    if source:
        typer.echo(source, err=True)
    collect = (*("telemetry", "collect", "--duration", "forever"), "--out", str(samples))
    with (work / "collector.log").open("w", encoding="utf-8") as log:
        watcher = subprocess.Popen(
            [sys.executable, "-m", "flopwise", *collect],
            cwd=Path.cwd(),
            env=os.environ | ({"PYTHONPATH": str(ROOT)} | _over(driver, work) if driver else {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield source
    finally:
        if watcher.poll() is not None:
            typer.echo(f"the collector ended early: {work / 'collector.log'} says why", err=True)
        watcher.terminate()
        watcher.wait(timeout=10)


def _has_driver() -> bool:
    from telemetry import nvml

    driver = nvml.Driver(node="", causes=nvml.Causes(lambda _line: None))
    try:
        driver.open()
    except nvml.NvmlUnavailableError:
        return False
    driver.close()
    return True


def _fake_driver(work: Path) -> str | None:
    """The folder of the driver that the tests measure with, compiled; None where it cannot be."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not FAKE_SOURCE.exists():
        return None
    folder = work / "fake-driver"
    folder.mkdir()
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-std=c11", "-shared", "-fPIC", "-o", str(library), str(FAKE_SOURCE)]
    if subprocess.run(command, check=False, capture_output=True, timeout=60).returncode:
        return None
    (folder / "state").write_text("live\n", encoding="utf-8")
    return str(folder)


def _over(driver: str, work: Path) -> dict[str, str]:
    folders = [str(Path(driver).resolve()), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders)),
        "FAKE_NVML_STATE": str((work / "fake-driver" / "state").resolve()),
    }


def _usage(samples: Path) -> None:
    if samples.exists():
        show_usage(samples, Output.TABLE)
    else:
        typer.echo("no GPU was measured; the report has the stand-ins' own times")


def _report(plan_file: Path, state: Path, samples: Path, source: str, target: Path) -> None:
    write_html(
        plan_file,
        runs=state,
        samples=samples if samples.exists() else None,
        out=target,
        title="A week of the bundled example",
        source=source,
    )
