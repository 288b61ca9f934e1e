"""The rules of the house that no linter knows: names, locks, scripts, what no file may hold."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("planner", "scheduler", "telemetry", "cost_models", "flopwise")
LOCKS = ("core", "operator", "all", "dev")
SCRIPTS = (
    "demo",
    "test",
    ".ci/run",
    "scripts/setup.sh",
    "scripts/lock",
    "scripts/cluster",
    "scripts/cluster-packages",
)

# Spelt apart, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(rb"(?<![\w.])/(?:wo" rb"rk|ro" rb"ot|ho" rb"me)/[\w.]")
REGISTRY = re.compile(r"https?://|--(?:extra-)?index-url|--find-links|@ file")


def tracked() -> list[Path]:
    """The files git would publish; where this is no checkout, those that are not hidden."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
        capture_output=True,
        check=True,
        timeout=30,
    )
    paths = [ROOT / name.decode() for name in listing.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_each_package_resolves_inside_the_tree(room: str) -> None:
    found = importlib.util.find_spec(room)
    assert found is not None
    assert found.origin == str(ROOT / room / "__init__.py")


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_bears_a_name_of_the_standard_library(room: str) -> None:
    named = {
        path.parent.name if path.name == "__init__.py" else path.stem for path in modules(room)
    }
    assert named & (sys.stdlib_module_names - {"__main__"}) == set()


@pytest.mark.parametrize("room", ROOMS)
def test_each_folder_of_modules_is_a_package(room: str) -> None:
    folders = {path.parent for path in modules(room)}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_tests_are_no_packages_that_could_shadow_a_room() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_each_pin_of_a_lock_is_exact_and_hashed(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text.replace("\\\n", " "))
    assert len(entries) > 10
    for entry in entries:
        requirement = entry.split("\n")[0]
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+", requirement), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", requirement), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_registry(lock: str) -> None:
    assert not REGISTRY.search((ROOT / "requirements" / f"{lock}.txt").read_text())


def test_the_locks_agree_on_every_version() -> None:
    core, operator, everything, dev = (
        set(re.findall(r"^([a-z0-9._-]+==\S+)", text, re.MULTILINE))
        for text in ((ROOT / "requirements" / f"{lock}.txt").read_text() for lock in LOCKS)
    )
    assert core < operator < everything < dev


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_parses(script: str, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    command = [shell, "-n", str(ROOT / script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_user_starts_is_executable() -> None:
    started = [script for script in SCRIPTS if not script.endswith(".sh")]
    assert [name for name in started if not (ROOT / name).stat().st_mode & 0o100] == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    naming = [str(path) for path in tracked() if MACHINE_PATHS.search(path.read_bytes())]
    assert naming == []
