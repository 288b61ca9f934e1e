"""``scripts/setup.sh``: which Python it takes, what it says is missing, how it starts again."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("cat", "cksum", "id", "mkdir", "rm", "sh", "touch")
SET_UP = 'set -eu; root=$1; . "$root/scripts/setup.sh"; set_up core'

REAL = f'exec {shlex.quote(sys.executable)} "$@"'
TOO_OLD = "exit 1"  # what the question for the version ends with
WITHOUT_VENV = f'case "$*" in *ensurepip*) exit 1;; esac; {REAL}'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What set-up needs of the tree, with a lock that asks for nothing."""
    clone = tmp_path / "a clone"
    (clone / "scripts").mkdir(parents=True)
    (clone / "requirements").mkdir()
    (clone / "requirements" / "core.txt").touch()
    (clone / "requirements" / "all.txt").touch()
    shutil.copy(ROOT / "scripts" / "setup.sh", clone / "scripts")
    (clone / "pyproject.toml").write_text("[project]\nname = 'nothing'\nversion = '1'\n")
    return clone


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    return folder


def add_python(folder: Path, name: str, body: str) -> None:
    script = folder / name
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)


def set_up(clone: Path, path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", SET_UP, "sh", str(clone)],
        env={"PATH": str(path)} | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def apt_line(packages: str) -> str:
    return f"{'' if os.getuid() == 0 else 'sudo '}apt install {packages}"


def test_no_supported_python_names_the_package(clone: Path, bin_folder: Path) -> None:
    add_python(bin_folder, "python3", TOO_OLD)
    done = set_up(clone, bin_folder)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"error: no Python 3.11 to 3.14 found: {apt_line('python3.12-venv')} "
    )
    assert not (clone / ".venv").exists()


def test_a_python_without_venv_names_its_package(clone: Path, bin_folder: Path) -> None:
    add_python(bin_folder, "python3", WITHOUT_VENV)
    package = f"python3.{sys.version_info[1]}-venv"
    done = set_up(clone, bin_folder)
    assert done.returncode == 1
    assert done.stderr == f"error: python3 has no venv module: {apt_line(package)}\n"


def test_the_python_asked_for_is_not_replaced_by_another(clone: Path, bin_folder: Path) -> None:
    add_python(bin_folder, "python3", REAL)
    done = set_up(clone, bin_folder, PYTHON="snake")
    assert done.returncode == 1
    assert done.stderr == "error: PYTHON=snake is not a Python 3.11 to 3.14\n"


def test_pyenvs_versions_are_found(clone: Path, bin_folder: Path, tmp_path: Path) -> None:
    of_version = tmp_path / "pyenv" / "versions" / "3.99.0" / "bin"
    of_version.mkdir(parents=True)
    add_python(of_version, "python3", WITHOUT_VENV)
    done = set_up(clone, bin_folder, PYENV_ROOT=str(tmp_path / "pyenv"))
    assert done.stderr.startswith(f"error: {of_version / 'python3'} has no venv module")


def pretend_installed(clone: Path) -> None:
    """A finished .venv whose pip would fail, so that a test sees whether it is called."""
    folder = clone / ".venv" / "bin"
    folder.mkdir(parents=True)
    add_python(folder, "python", f'case "$*" in *pip*) echo called pip; exit 9;; esac; {REAL}')
    add_python(folder, "pip", "exit 9")
    stamp = 'set -eu; root=$1; . "$root/scripts/setup.sh"; wanted_stamp core >"$venv/.stamp-core"'
    subprocess.run(["sh", "-c", stamp, "sh", str(clone)], check=True, timeout=30)


def test_a_finished_environment_is_left_alone(clone: Path, bin_folder: Path) -> None:
    pretend_installed(clone)
    done = set_up(clone, bin_folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_changed_lock_is_installed(clone: Path, bin_folder: Path) -> None:
    pretend_installed(clone)
    add_python(bin_folder, "python3", REAL)
    (clone / "requirements" / "core.txt").write_text("# another\n")
    done = set_up(clone, bin_folder)
    assert done.returncode == 1
    assert "called pip" in done.stderr
    assert "error: requirements/core.txt could not be installed" in done.stderr
    assert not (clone / ".venv" / ".stamp-core").exists()


def test_an_interrupted_environment_is_made_anew(clone: Path, bin_folder: Path) -> None:
    pretend_installed(clone)
    (clone / ".venv" / ".incomplete").touch()
    add_python(bin_folder, "python3", f'case "$*" in *"-m venv"*) exit 9;; esac; {REAL}')
    done = set_up(clone, bin_folder)
    assert done.returncode == 1
    assert done.stderr.startswith("== making .venv with Python 3.")
    assert list((clone / ".venv").iterdir()) == [clone / ".venv" / ".incomplete"]
