"""The ``flopwise`` command: one module a command group, each loading what it needs when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flopwise import (
    apply,
    catalog,
    convert,
    demo,
    jobs,
    plan,
    report,
    telemetry,
)
from flopwise.errors import BAD_INPUT, INTERRUPTED, Fail

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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Plan and run GPU work at the least cost per useful FLOP."""
    del version  # handled before anything else


app.command("demo")(demo.demo)
app.command("plan")(plan.plan)
app.command("apply")(apply.apply)
app.command("submit")(jobs.submit)
app.command("get")(jobs.get)
app.command("status")(jobs.status)
app.command("logs")(jobs.logs)
app.command("cancel")(jobs.cancel)
app.command("convert")(convert.convert)
app.add_typer(report.app, name="report")
app.add_typer(catalog.app, name="catalog")
app.add_typer(telemetry.app, name="telemetry")


def main() -> None:
    """Run the command; say what is wrong in plain lines and leave with its exit code."""
    try:
        app()
    except Fail as failure:
        sys.exit(_say(str(failure), failure.code))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", INTERRUPTED))
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away: nobody is left to tell
        sys.exit(1)
    except Exception as error:
        if (lines := _bad_input(error)) is None:
            raise
        sys.exit(_say(lines, BAD_INPUT))


def _bad_input(error: Exception) -> str | None:
    """The lines of an error that input caused; None for one of ours."""
    from planner.manifests.errors import ManifestErrors
    from planner.planfile import PlanFileError
    from planner.table import Unsupported

    if isinstance(error, (ManifestErrors, PlanFileError, Unsupported)):
        return str(error)
    return None


def _say(lines: str, code: int) -> int:
    for line in lines.splitlines():
        print(f"flopwise: {line}", file=sys.stderr)  # noqa: T201  # where messages go
    return code


if __name__ == "__main__":
    main()
