"""Help: it names every command, and costs no import that help does not need."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import typer

from flopwise.__main__ import app
from tests.flopwise.command import ROOT, Command

PLANNED = (
    *("demo", "plan", "explain", "whatif", "apply", "submit", "get", "status"),
    *("logs", "cancel", "convert", "report", "catalog", "telemetry"),
)
HEAVY = ("kubernetes", "numpy", "ortools", "pandas", "plotly", "pydantic", "ray", "yaml")


def paths(group: typer.Typer, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """What can be typed after ``flopwise``, groups too."""
    own = [(*above, c.name) for c in group.registered_commands if c.name]
    names = [c.callback.__name__ for c in group.registered_commands if not c.name and c.callback]
    for sub in group.registered_groups:
        assert sub.name
        assert sub.typer_instance
        own += [(*above, sub.name), *paths(sub.typer_instance, (*above, sub.name))]
    return [*own, *((*above, name.replace("_", "-")) for name in names)]


def test_help_lists_every_command(flopwise: Command) -> None:
    ended = flopwise("--help")
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", ended.out.split("Commands:")[1], re.MULTILINE)
    assert (ended.code, ended.err) == (0, "")
    assert set(PLANNED) <= set(listed)
    assert set(listed) == {path[0] for path in paths(app)}


@pytest.mark.parametrize("path", paths(app), ids=" ".join)
def test_each_command_tells_how_it_is_used(path: tuple[str, ...], flopwise: Command) -> None:
    ended = flopwise(*path, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert re.match(rf"Usage: \S.* {' '.join(path)} \[", ended.out)
    assert flopwise(*path, "-h") == ended


def test_the_command_alone_shows_its_help_and_is_no_success(flopwise: Command) -> None:
    ended = flopwise()
    assert ended.code == 2
    assert "Commands:" in ended.err


def test_the_version_is_the_package_s(flopwise: Command) -> None:
    from importlib.metadata import version

    assert flopwise("--version") == (0, f"{version('flopwise')}\n", "")


def test_the_command_line_loads_nothing_heavy_before_it_is_asked_for_work() -> None:
    script = "import flopwise.__main__, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    assert set(HEAVY) & set(json.loads(done.stdout)) == set()
