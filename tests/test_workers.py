"""With several workers, tests that must not run at once do not: they go to one worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

SHARED = ("shared", "shared-too")
# Files, each with a test of the group and one that is its own file's; who ran what, they write.
SOURCE = """
import os, pathlib, pytest
def write(test): pathlib.Path(os.environ["WHO"], test).write_text(os.environ["PYTEST_XDIST_WORKER"])
@pytest.mark.{mark}
def test_shared(): write("{name}-shared")
@pytest.mark.{mark}
def test_shared_too(): write("{name}-shared-too")
def test_own(): write("{name}-own")
def test_own_too(): write("{name}-own-too")
"""


def test_a_group_and_a_file_each_have_one_worker(tmp_path: Path) -> None:
    suite, who = tmp_path / "suite", tmp_path / "who"
    suite.mkdir()
    who.mkdir()
    (suite / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    for name, mark in (("one", "cluster"), ("two", "cluster"), ("three", "deep")):
        (suite / f"test_{name}.py").write_text(SOURCE.format(mark=mark, name=name))
    options = ["-q", "-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *options, str(suite)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "WHO": str(who)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "12 passed" in done.stdout, done.stdout + done.stderr
    ran = {path.name: path.read_text() for path in who.iterdir()}
    assert len({ran[f"{name}-{test}"] for name in ("one", "two") for test in SHARED}) == 1
    assert len({ran[f"three-{test}"] for test in SHARED}) == 1
    for name in ("one", "two", "three"):
        assert ran[f"{name}-own"] == ran[f"{name}-own-too"]
