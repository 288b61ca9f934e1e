"""``flopwise telemetry`` as a user calls it, over the fake driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from telemetry.collect import ticks
from telemetry.samples import GpuSample, append, read
from tests.flopwise.command import Command

ROOT = Path(__file__).parent.parent.parent
START = datetime(2026, 12, 1, tzinfo=UTC)


def run(*arguments: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flopwise", "telemetry", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def here(flopwise: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The same in this process, for what needs no driver of its own."""
    monkeypatch.chdir(tmp_path)
    return partial(flopwise, "telemetry")


def sample(minute: int) -> GpuSample:
    return GpuSample(
        time=START + timedelta(minutes=minute),
        node="node-1",
        uuid="GPU-1",
        name="NVIDIA L4",
        utilisation_fraction=0.5,
        energy_joules=60_000.0 * minute,
    )


class Clock:
    """A clock that only sleeping moves, and work that takes what the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def tick_times(interval: float, duration: float, work: list[float]) -> list[float]:
    clock, found = Clock(), []
    lengths = (timedelta(seconds=interval), timedelta(seconds=duration))
    for _ in ticks(*lengths, clock, clock.sleep):
        found.append(clock.now - 100)
        clock.now += work.pop(0) if work else 0
    return found


def test_ticks_keep_to_the_grid_and_leave_out_what_was_missed() -> None:
    assert tick_times(1, 3, work=[]) == [0, 1, 2, 3]
    assert tick_times(1, 3, work=[0.75, 0.75]) == [0, 1, 2, 3]
    assert tick_times(1, 5, work=[0, 2.5]) == [0, 1, 4, 5]  # 1 + 2.5 = 3.5: 2 and 3 are gone
    assert tick_times(5, 3, work=[]) == [0]


def test_collect_adds_a_line_for_each_gpu_at_each_tick(driver: Path, tmp_path: Path) -> None:
    # An interval longer than the duration: one tick a call, however slow the machine.
    for _ in range(2):
        done = run("collect", "--duration", "0.001s", folder=tmp_path, LD_LIBRARY_PATH=str(driver))
        assert (done.returncode, done.stdout) == (0, "")
        lacking, added = done.stderr.splitlines()
        assert lacking.startswith("not given here: field throttled_board_limit_ns, ")
        assert added == "samples.jsonl: 2 samples added"
    found = list(read(tmp_path / "samples.jsonl"))
    assert [one.uuid for one in found] == ["GPU-00000000", "GPU-00000001"] * 2
    assert found[0].time < found[2].time


def test_collect_keeps_a_store_instead_or_besides(driver: Path, tmp_path: Path) -> None:
    fake = {"LD_LIBRARY_PATH": str(driver)}
    done = run("collect", "--duration", "0.001s", "--store", "ring", folder=tmp_path, **fake)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "ring: 2 samples added")
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == []
    shown = run("usage", "ring", "-o", "json", folder=tmp_path)
    gpus = [gpu["uuid"] for gpu in json.loads(shown.stdout)["gpus"]]
    assert gpus == ["GPU-00000000", "GPU-00000001"]


def test_a_store_of_something_else_is_refused_before_anything_is_read(
    here: Command, tmp_path: Path
) -> None:
    (tmp_path / "thesis").write_text("It was a dark and stormy night; " * 40)
    done = here("collect", "--store", "thesis")
    assert done.code == 1
    assert done.err.startswith("flopwise: thesis: ")
    assert done.err.count("\n") == 1


def test_collect_says_once_which_gpu_cannot_be_read(driver: Path, tmp_path: Path) -> None:
    times = ("--interval", "0.05s", "--duration", "0.2s")
    fake = {"LD_LIBRARY_PATH": str(driver), "FAKE_NVML_LOST": "1"}
    done = run("collect", *times, folder=tmp_path, **fake)
    *told, added = done.stderr.splitlines()
    assert told.count("GPU 1 cannot be read: GPU is lost") == 1
    found = list(read(tmp_path / "samples.jsonl"))
    assert added == f"samples.jsonl: {len(found)} samples added"
    assert {one.uuid for one in found} == {"GPU-00000000"}


def test_collect_without_a_driver_fails_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    done = run("collect", folder=tmp_path, LD_LIBRARY_PATH=str(tmp_path), FAKE_NVML_GPUS="0")
    if done.returncode == 0:
        pytest.skip("this machine has an NVIDIA driver")
    assert done.returncode == 1
    assert done.stderr.startswith("flopwise: no NVIDIA driver here")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_collect_where_no_gpu_can_be_read_fails(driver: Path, tmp_path: Path) -> None:
    fake = {"LD_LIBRARY_PATH": str(driver), "FAKE_NVML_GPUS": "0"}
    done = run("collect", "--duration", "0.001s", folder=tmp_path, **fake)
    assert (done.returncode, done.stderr) == (1, "flopwise: the driver shows no GPU to read\n")


@pytest.mark.parametrize("interval", ["0s", "1", "-1s", "soon", "1x"])
def test_a_wrong_interval_is_a_usage_error(here: Command, interval: str) -> None:
    done = here("collect", f"--interval={interval}")
    assert done.code == 2
    assert "for --interval: found" in " ".join(done.err.split())
    assert "allowed: a length above 0" in " ".join(done.err.split())


def test_usage_sums_up_what_was_collected(here: Command, tmp_path: Path) -> None:
    # 30 intervals of a minute at 50 %: 0.5 h; 30 x 60,000 J = 1.8 MJ = 0.5 kWh.
    append(tmp_path / "s.jsonl", [sample(minute) for minute in range(31)])
    done = here("usage", "s.jsonl")
    assert (done.code, done.err) == (0, "")
    header, row = done.out.splitlines()
    assert header.split() == [
        *("NODE", "GPU", "NAME", "GPU-HOURS", "ACTIVE", "UTILISATION", "ENERGY", "GAPS")
    ]
    assert row.split("   ")[0:3] == ["node-1", "GPU-1", "NVIDIA L4"]
    assert row.split()[4:] == ["0.500", "0.500", "50.0%", "0.500", "kWh", "0.000", "h"]


def test_usage_as_json_has_the_same_numbers(here: Command, tmp_path: Path) -> None:
    append(tmp_path / "s.jsonl", [sample(minute) for minute in range(31)])
    done = here("usage", "s.jsonl", "-o", "json")
    (gpu,) = json.loads(done.out)["gpus"]
    assert gpu == {
        "node": "node-1",
        "uuid": "GPU-1",
        "name": "NVIDIA L4",
        "first": "2026-12-01T00:00:00+00:00",
        "last": "2026-12-01T00:30:00+00:00",
        "observedGpuHours": pytest.approx(0.5),
        "activeGpuHours": pytest.approx(0.5),
        "meanUtilisationFraction": pytest.approx(0.5),
        "energyJoules": 1_800_000.0,
        "gapHours": 0.0,
    }


def test_usage_of_a_wrong_or_missing_file_is_one_line(here: Command, tmp_path: Path) -> None:
    (tmp_path / "wrong.jsonl").write_text("{}\n")
    wrong = here("usage", "wrong.jsonl")
    missing = here("usage", "none.jsonl")
    assert (wrong.code, missing.code) == (2, 2)
    assert wrong.err == (
        "flopwise: wrong.jsonl: line 1: time: found nothing, "
        "allowed: an ISO 8601 time with its zone\n"
    )
    assert missing.err == "flopwise: none.jsonl: No such file or directory\n"
