"""`flopwise telemetry import`, `compact` and `usage --history` as a user calls them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from telemetry.samples import GpuSample, append
from telemetry.store import Ring
from telemetry.uses import Owner, Use
from tests.flopwise.command import Command

START = datetime(2025, 12, 1, tzinfo=UTC)
CHAT = Owner(namespace="nlp", pod="chat-0", job="chat", team="nlp")

pytest.importorskip("duckdb", reason="the history needs flopwise[telemetry]")


@pytest.fixture
def run(flopwise: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``run("usage", "store")`` as a shell in the test's folder would."""
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


def test_a_store_becomes_a_history_that_tells_what_for_whom(run: Command, tmp_path: Path) -> None:
    with Ring(tmp_path / "ring.db") as ring:
        ring.append(Use(sample=sample(minute), owner=CHAT) for minute in range(121))
    done = run("compact", "ring.db", "--history", "months")
    # Minute 0 is the last instant of the day before.
    assert (done.code, done.err) == (0, "months: 121 rows read, 2 days summed up\n")
    found = run("usage", "--history", "months", "--by", "team,job", "-o", "json")
    assert json.loads(found.out) == {
        "usage": [
            {
                "team": "nlp",
                "job": "chat",
                "observedGpuHours": 2.0,
                "allocatedGpuHours": 2.0,
                "activeGpuHours": 2.0,
                "idleGpuHours": 0.0,
                "utilisedGpuHours": 1.0,
                "tensorGpuHours": None,
                "achievedFlops": None,
                "energyJoules": 7_200_000.0,
                "gapGpuHours": 0.0,
                "samples": 121,
            }
        ]
    }
    again = run("compact", "ring.db", "--history", "months", "--keep-raw", "1d")
    dropped = "raw/day=2025-11-30 dropped, raw/day=2025-12-01 dropped"
    assert f"0 days summed up, {dropped}" in again.err
    second = ("--from", "2025-12-01T01:00", "--to", "2025-12-02")
    (_, row) = run("usage", "--history", "months", *second).out.splitlines()
    assert row.split()[:3] == ["nlp", "chat", "1.000"]


def test_files_are_imported_and_twice_is_once(run: Command, tmp_path: Path) -> None:
    append(tmp_path / "samples.jsonl", [sample(minute) for minute in range(1, 62)])
    for _ in range(2):
        done = run("import", "samples.jsonl", "--history", "months")
        assert (done.code, done.out) == (0, "")
        assert done.err.startswith("months: 61 rows read, ")
    found = run("usage", "--history", "months", "--by", "gpu", "-o", "json")
    (one,) = json.loads(found.out)["usage"]
    assert (one["gpu"], one["observedGpuHours"], one["samples"]) == ("GPU-1", 1.0, 61)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("import", "none.jsonl", "--history", "h"), 1, "none.jsonl: No such file or directory"),
        (("import", "wrong", "--history", "h"), 2, "flopwise: wrong: line 1: time: found nothing"),
        (("import", "wrong", "--history", "zz://h"), 2, "flopwise: zz://h: found Protocol not kno"),
        (("compact", "none.db", "--history", "h"), 2, "flopwise: none.db: found no file, allowed"),
        (("compact", "--history", "h", "--keep-hourly", "9d"), 2, "--keep-hourly: found 9 days, a"),
        (("usage", "--history", "h", "--by", "mood"), 2, "flopwise: --by: found mood, allowed: n"),
        (("usage", "--history", "h", "--from", "soon"), 2, "found 'soon', allowed: a day or a ful"),
        (("usage", "--history", "h", "--from", "2026-12-01T00:30"), 2, "--from: found 2026-12-01"),
        (("usage", "wrong", "--history", "h"), 2, "found both or none, allowed: a file, or --hist"),
        (("usage",), 2, "found both or none, allowed: a file, or --history URL"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    run: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "wrong").write_text("{}\n")
    done = run(*arguments)
    assert (done.code, done.out) == (code, "")
    assert message in " ".join(done.err.replace("│", " ").split())
