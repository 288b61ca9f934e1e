"""The collector over the fake driver: a script played to it, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from telemetry.samples import GpuSample, from_line

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the collector made of a script."""

    ticks: tuple[tuple[GpuSample, ...], ...]
    unreadable: tuple[list[tuple[int, str]], ...]
    failures: tuple[str | None, ...]
    ended: str | None  # the error that ended it
    told: tuple[str, ...]
    counts: dict[tuple[str, str], int]

    def last(self) -> GpuSample:
        """The one sample of the last tick."""
        (one,) = self.ticks[-1]
        return one


Play = Callable[..., Played]


@pytest.fixture(scope="session")
def old_driver(build_driver: Callable[..., Path]) -> Path:
    return build_driver("-DOLD_DRIVER")


@pytest.fixture(scope="session")
def driver_535(build_driver: Callable[..., Path]) -> Path:
    """Of the drivers whose struct of a process is longer."""
    return build_driver("-DLONG_PROCESS")


@pytest.fixture
def play(driver: Path, tmp_path: Path) -> Play:
    """Plays steps (a script, or a dict of play.py's) to a fake driver; see ``play.py``."""

    def run(*steps: str | dict[str, Any], driver: Path = driver, **options: Any) -> Played:
        plan = options | {"steps": [_step(step) for step in steps]}
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "play.py")],
            env=os.environ
            | {
                "LD_LIBRARY_PATH": str(driver),
                "PYTHONPATH": str(ROOT),
                "FAKE_NVML_STATE": str(tmp_path / "state"),
            },
            input=json.dumps(plan),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return _played(json.loads(done.stdout))

    return run


def _step(step: str | dict[str, Any]) -> dict[str, Any]:
    return {"script": step, "advance": 1.0} if isinstance(step, str) else step


def _played(found: dict[str, Any]) -> Played:
    return Played(
        ticks=tuple(tuple(map(from_line, tick["samples"])) for tick in found["ticks"]),
        unreadable=tuple([(i, why) for i, why in tick["unreadable"]] for tick in found["ticks"]),
        failures=tuple(tick["failure"] for tick in found["ticks"]),
        ended=found["ended"],
        told=tuple(found["told"]),
        counts={(call, cause): count for call, cause, count in found["counts"]},
    )
