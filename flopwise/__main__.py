"""The ``flopwise`` command: one module a command group, each loading what it needs when it runs."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from flopwise import (
    apply,
    calibrate,
    catalog,
    convert,
    demo,
    doctor,
    explain,
    fairness,
    init,
    jobs,
    mix,
    operate,
    plan,
    report,
    telemetry,
    telemetry_top,
    whatif,
)
from flopwise.context import Context, Kubeconfig, for_all_commands, talks_to_a_cluster
from flopwise.errors import BAD_INPUT, FAILED, INTERRUPTED, Fail
from flopwise.interrupt import leave
from planner.manifests.errors import plain

DEBUG = "FLOPWISE_DEBUG"  # 1: errors of ours show where they are

app = typer.Typer(
    name="flopwise",
    help="Plan and run GPU work at the least cost per useful FLOP.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("flopwise"))
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Plan and run GPU work at the least cost per useful FLOP."""
    del version  # handled before anything else
    given = {"context": context, "kubeconfig": kubeconfig}
    stated = {name: value for name, value in given.items() if value}
    if not stated:
        return
    group: Any = ctx.command
    if not talks_to_a_cluster(group.commands[str(ctx.invoked_subcommand)]):
        option = f"--{next(iter(stated))}"
        raise typer.BadParameter(
            f"found {option}, allowed: none ({ctx.invoked_subcommand} uses no cluster)"
        )
    ctx.default_map = for_all_commands(group, stated)


app.command("demo")(demo.demo)
app.command("plan")(plan.plan)
app.command("explain")(explain.explain)
app.command("whatif")(whatif.whatif)
app.command("fairness")(fairness.fairness)
app.command("mix")(mix.mix)
app.command("calibrate")(calibrate.calibrate)
app.command("apply")(apply.apply)
app.command("submit")(jobs.submit)
app.command("get")(jobs.get)
app.command("status")(jobs.status)
app.command("logs")(jobs.logs)
app.command("cancel")(jobs.cancel)
app.command("convert")(convert.convert)
app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
app.add_typer(report.app, name="report")
app.add_typer(catalog.app, name="catalog")
telemetry.app.command("push")(calibrate.push)
telemetry.app.command("pull")(calibrate.pull)
telemetry.app.command("top")(telemetry_top.top)
app.add_typer(telemetry.app, name="telemetry")
app.add_typer(operate.app, name="operator")


def main() -> None:
    """Run the command; say what is wrong in plain lines and leave with its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without our letters is no error
    try:
        app()
    except Fail as failure:
        _say(str(failure), failure.code)
        if failure.code == INTERRUPTED:
            leave(INTERRUPTED)
        sys.exit(failure.code)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # how Typer ends on Ctrl-C
            leave(_say("interrupted", INTERRUPTED))
        raise
    except Exception as error:  # whatever it is, a user sees a line and an exit code
        if (lines := _bad_input(error)) is not None:
            sys.exit(_say(lines, BAD_INPUT))
        if os.environ.get(DEBUG) == "1":
            raise
        sys.exit(_say(_internal(error), FAILED))


def _bad_input(error: Exception) -> str | None:
    """The lines of an error that input caused; None for one of ours."""
    from planner.manifests.errors import ManifestErrors
    from planner.planfile import PlanFileError
    from planner.table import Unsupported

    if isinstance(error, (ManifestErrors, PlanFileError, Unsupported)):
        return str(error)
    return None


def _internal(error: Exception) -> str:
    """One line for an error of ours."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"internal error: {what[:300]}; please report it with what {DEBUG}=1 prints"


def _say(lines: str, code: int) -> int:
    for line in lines.splitlines():
        print(f"flopwise: {plain(line)}", file=sys.stderr)  # noqa: T201  # where messages go
    return code


if __name__ == "__main__":
    main()
