"""The two small programs that run around and in place of a job, as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

from scheduler.executor import guard, stand_in


def sh(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, timeout=30, check=False
    )


def report(path: Path) -> dict[str, float]:
    data = json.loads(path.read_text())
    assert isinstance(data, dict)
    return data


def test_a_stand_in_works_for_its_seconds_and_measures_itself() -> None:
    begin = time.monotonic()
    done = sh(stand_in.command(job="it's a", work=12.0, unit="tokens", seconds=0.4))
    assert 0.4 <= time.monotonic() - begin < 5
    *progress, last = done.stdout.splitlines()
    measured = json.loads(last)
    assert len(progress) == stand_in.REPORTS
    assert (measured["job"], measured["work"], measured["unit"]) == ("it's a", 12.0, "tokens")
    assert 0.4 <= measured["seconds"] < 5
    assert measured["flops"] > 0
    assert measured["flops"] % stand_in.FLOPS_PER_BURST == 0
    assert done.returncode == 0


def test_a_stopped_stand_in_says_how_far_it_came() -> None:
    words = stand_in.command(job="a", work=100.0, unit="hours", seconds=100.0)
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {words}"], stdout=subprocess.PIPE, text=True
    )
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    measured = json.loads(output.splitlines()[-1])
    assert 0 < measured["work"] < 10
    assert process.returncode == 128 + signal.SIGTERM


def test_a_burst_is_a_sum_of_halves() -> None:
    # x -> x/2 + 1 has its fixed point at 2.
    assert stand_in.burst(1.0) == 2.0


def test_the_guard_reports_when_a_command_ran_and_how_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    begin = time.time()
    done = sh(guard.command(path, 'echo "$0 said"; sleep 0.2; exit 3'))
    assert done.returncode == 3
    assert done.stdout == "/bin/sh said\n"
    told = report(path)
    assert told["exitCode"] == 3
    assert begin <= told["start"] <= told["end"] - 0.2
    assert told["end"] <= time.time()


def test_a_running_command_has_a_report_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    process = subprocess.Popen(["/bin/sh", "-c", f"exec {guard.command(path, 'sleep 60')}"])
    deadline = time.monotonic() + 10
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(report(path)) == ["start"]
    process.terminate()  # the guard alone: it lives to tell the end of its command
    time.sleep(0.2)
    assert process.poll() is None
    subprocess.run(["pkill", "-P", str(process.pid)], check=True, timeout=10)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    assert report(path)["exitCode"] == 128 + signal.SIGTERM
