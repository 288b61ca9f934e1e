"""``flopwise report``: what a plan costs, or a cluster's jobs have cost; for people and scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flopwise.context import Context, Kubeconfig, connected
from flopwise.errors import BAD_INPUT, NOT_FOUND, Fail

if TYPE_CHECKING:
    from cost_models.report import Report
    from flopwise.billing import Ran
    from scheduler.executor.records import Run
    from telemetry.usage import Usage

app = typer.Typer(help="The cost report of a plan, or of a cluster.", no_args_is_help=True)

PlanOption = Annotated[Path, typer.Option("-f", "--file", metavar="PLAN", help="A plan.json.")]
RunsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="State folder of the executor: sets what ran beside what was planned."
    ),
]
SamplesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A store of GPUs or a file of samples: sets what they did beside it."
    ),
]
TitleOption = Annotated[str, typer.Option(metavar="TEXT", help="Heading of the report.")]
TITLE = "GPU cost report"


@app.command()
def html(
    file: PlanOption = Path("plan.json"),
    runs: RunsOption = None,
    samples: SamplesOption = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to.")] = Path("report.html"),
    title: TitleOption = TITLE,
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Write the report as one HTML file that needs nothing else, and print its name."""
    if _is_cluster(context, kubeconfig, runs, samples):
        _written(_of_cluster(title, context, kubeconfig), out)
    else:
        write_html(file, runs=runs, samples=samples, out=out, title=title)


def write_html(
    file: Path, *, runs: Path | None, samples: Path | None, out: Path, title: str, source: str = ""
) -> None:
    """The report of a plan; ``source`` says what was sampled, where that is not the plan's GPUs."""
    _written(_report(file, runs, title, samples, source), out)


def _written(made: Report, out: Path) -> None:
    from cost_models.report import write_report

    try:
        write_report(made, out)
    except OSError as error:
        raise Fail(f"--out: {out}: {error.strerror}", BAD_INPUT) from None
    typer.echo(out)


@app.command("json")
def json_(
    file: PlanOption = Path("plan.json"),
    runs: RunsOption = None,
    samples: SamplesOption = None,
    title: TitleOption = TITLE,
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Print the report as JSON: the totals, the break-downs and every line of the ledger."""
    from cost_models.report import document

    if _is_cluster(context, kubeconfig, runs, samples):
        made = _of_cluster(title, context, kubeconfig)
    else:
        made = _report(file, runs, title, samples)
    typer.echo(json.dumps(document(made), indent=1, allow_nan=False))


def _is_cluster(context: str, kubeconfig: str, runs: Path | None, samples: Path | None) -> bool:
    """Whether a cluster is billed; what belongs to a plan is refused there."""
    if not (context or kubeconfig):
        return False
    for name, value in (("--runs", runs), ("--samples", samples)):
        if value is not None:
            raise typer.BadParameter(f"found {name} beside a cluster, allowed: one of them")
    return True


def _of_cluster(title: str, context: str, kubeconfig: str) -> Report:
    from datetime import UTC, datetime

    from flopwise.cluster_bill import report
    from scheduler.kube import names

    with connected(context, kubeconfig) as kube:
        jobs, pools = kube.list(names.GPU_JOBS).items, kube.list(names.GPU_POOLS).items
    made = report(jobs, pools, datetime.now(UTC), title=title)
    if made is None:
        raise Fail("found no GpuJob that has held GPUs yet", NOT_FOUND)
    return made


def _report(
    file: Path, state: Path | None, title: str, samples: Path | None = None, source: str = ""
) -> Report:
    from flopwise.billing import report
    from planner.check import violations
    from planner.planfile import PlanFileError, read_plan

    read = read_plan(file)
    for name, plan in (("answer", read.plan), ("baseline", read.baseline)):
        if plan and (wrong := violations(read.problem, plan)):
            raise PlanFileError(f"{file}: {name}: {wrong[0]}")
    ran, note = _ran(state) if state else ((), "")
    return report(
        read.problem,
        read.plan,
        read.baseline,
        title=title,
        runs=ran,
        stand_ins=note,
        usage=_used(samples) if samples else (),
        gpu_source=source,
    )


def _used(samples: Path) -> tuple[Usage, ...]:
    """What the GPUs did for each job."""
    from flopwise.usage import uses_of
    from telemetry.samples import SamplesError
    from telemetry.store import StoreError
    from telemetry.usage import By, usage_by

    try:
        return usage_by(uses_of(samples), [By.JOB])
    except (SamplesError, StoreError) as error:
        raise Fail(f"--samples: {error}", BAD_INPUT) from None
    except OSError as error:
        raise Fail(f"--samples: {samples}: {error.strerror}", BAD_INPUT) from None


def _ran(state: Path) -> tuple[tuple[Ran, ...], str]:
    """What the last plan of a state folder ran, and what to say where it was not the jobs."""
    from flopwise.billing import Ran
    from scheduler.executor.control import observed_runs
    from scheduler.executor.journal import Journal, StateDirectory

    plans = [r for r in Journal(StateDirectory(root=state).journal).refresh().values() if r.planned]
    if not plans:
        raise Fail(f"--runs: {state}: found no plan that was carried out there", NOT_FOUND)
    ran = tuple(
        Ran(launch=o.launch, status=o.status.lower(), start=o.plan_start, end=o.plan_end)
        for o in observed_runs(state)
        if o.run == plans[-1].name
    )
    return ran, _stand_ins(plans[-1])


def _stand_ins(run: Run) -> str:
    from scheduler.executor import stand_in

    if not any(stand_in.__file__ in record.launch.entrypoint for record in run.records.values()):
        return ""
    return (
        "These runs were small CPU programs in place of the jobs, in time compressed"
        f" {run.clock.speed:,.0f} times: they show that the plan's order, gangs and nodes hold."
        " They say nothing of how fast GPUs are, and each starts late by the seconds that starting"
        " any program takes, which compressed time makes hours."
    )
