"""Machine code is kept by the text that it was made of, wherever that lies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

DOUBLE = """from planner.compiled import compiled

def double(x):
    return {times} * x

double = compiled(double)
"""
# Says what it computes, and how often it compiled and found what was kept.
ASK = """from planner.doubling import double
stats = double(21) and double.stats
print(double(21), sum(stats.cache_misses.values()), sum(stats.cache_hits.values()))
"""


def tree(folder: Path, times: int) -> Path:
    """A package of the planner's name with one compiled function."""
    package = folder / "planner"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(ROOT / "planner" / "compiled.py", package)  # written now: not when ours was
    (package / "doubling.py").write_text(DOUBLE.format(times=times))
    return folder


def said(folder: Path, cache: Path) -> list[int]:
    """What it computes there, and how often it compiled and found what was kept."""
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [int(each) for each in done.stdout.split()]


def test_the_same_text_in_another_folder_is_not_compiled_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert said(tree(tmp_path / "one", times=2), cache) == [42, 1, 0]
    assert said(tree(tmp_path / "two", times=2), cache) == [42, 0, 1]


def test_another_text_in_the_same_place_is_compiled(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert said(tree(tmp_path / "one", times=2), cache) == [42, 1, 0]
    shutil.rmtree(tmp_path / "one")
    assert said(tree(tmp_path / "one", times=3), cache) == [63, 1, 0]
    assert len(list((cache / "flopwise").iterdir())) == 2
