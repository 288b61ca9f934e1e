"""``flopwise telemetry usage`` by owner, and of what is idle, as a user calls it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from telemetry.samples import GpuSample, append
from telemetry.store import Ring
from telemetry.uses import Owner, Use
from tests.flopwise.command import Command

START = datetime(2026, 12, 1, tzinfo=UTC)
H100 = "NVIDIA H100 80GB HBM3"
SFT = Owner(namespace="nlp", pod="sft-0", job="sft", team="nlp")
RAG = Owner(namespace="web", pod="rag-0", job="rag", team="web")


def use(minute: int, owner: Owner, uuid: str, busy: float) -> Use:
    sample = GpuSample(
        time=START + timedelta(minutes=minute),
        node="node-1",
        uuid=uuid,
        name=H100,
        utilisation_fraction=busy,
        power_watts=100.0,
    )
    return Use(sample=sample, owner=owner)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An hour of two GPUs, minute by minute: SFT works at 50 %, RAG does nothing."""
    path = tmp_path / "ring.db"
    with Ring(path) as ring:
        for minute in range(61):
            ring.append([use(minute, SFT, "GPU-1", 0.5), use(minute, RAG, "GPU-2", 0.0)])
    return path


def test_usage_by_team_and_job(flopwise: Command, store: Path) -> None:
    done = flopwise("telemetry", "usage", store, "--by", "team,job", "-o", "json")
    nlp, web = json.loads(done.out)["usage"]
    assert (nlp["team"], nlp["job"], nlp["samples"]) == ("nlp", "sft", 60)
    assert nlp["activeGpuHours"] == pytest.approx(1.0)
    assert nlp["utilisedGpuHours"] == pytest.approx(0.5)
    assert nlp["energyJoules"] == pytest.approx(360_000)  # 100 W x 3600 s
    assert web["idleGpuHours"] == pytest.approx(1.0)
    table = flopwise("telemetry", "usage", store, "--by", "team").out.splitlines()
    assert table[0].split()[:3] == ["TEAM", "GPU-HOURS", "ALLOCATED"]
    assert table[1].split()[:5] == ["nlp", "1.000", "1.000", "1.000", "0.000"]
    assert table[2].split()[:5] == ["web", "1.000", "1.000", "0.000", "1.000"]


def test_idle_gpus_with_owner_and_cost(flopwise: Command, store: Path) -> None:
    # RAG has been idle from the first sample to the last: an hour at $4.
    done = flopwise("telemetry", "usage", store, "--idle", "--usd-per-gpu-hour", 4)
    header, row, total = done.out.splitlines()
    assert header.split("  ")[0] == "NODE"
    assert row.split("   ")[3:5] == ["web/rag", "web"]
    assert row.split()[-3:] == ["1.00", "4.00", "4.00"]
    assert total == "1 idle: $4.00 an hour, $4.00 so far"
    said = json.loads(flopwise("telemetry", "usage", store, "--idle", "-o", "json").out)
    assert [gpu["uuid"] for gpu in said["gpus"]] == ["GPU-2"]
    assert said["gpus"][0]["usdPerHour"] > 0  # the catalog's
    (workload,) = said["workloads"]
    assert (workload["namespace"], workload["job"]) == ("web", "rag")
    assert workload["idleSeconds"] == 3600.0


def test_nothing_idle_for_so_long_is_said(flopwise: Command, store: Path) -> None:
    done = flopwise("telemetry", "usage", store, "--idle", "--after", "2h")
    assert (done.code, done.out) == (0, "no GPU that someone holds has been idle for so long\n")


def test_a_samples_file_is_read_as_the_store_is(flopwise: Command, tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    append(file, [use(minute, SFT, "GPU-1", 0.5).sample for minute in range(61)])
    done = flopwise("telemetry", "usage", file, "--by", "node", "-o", "json")
    (node,) = json.loads(done.out)["usage"]
    assert (node["node"], node["observedGpuHours"]) == ("node-1", pytest.approx(1.0))
    assert node["allocatedGpuHours"] == 0.0  # a file of samples does not say whose they are


def test_an_unknown_key_says_which_there_are(flopwise: Command, store: Path) -> None:
    done = flopwise("telemetry", "usage", store, "--by", "team,user")
    assert done.code == 2
    assert "found 'user', allowed: node, gpu" in " ".join(done.err.split())


ENEMY = "a\x1b[2J\x9b31m\n\u202e<b>'\"" + "x" * 10_000


def test_names_of_others_move_no_cursor_and_break_no_line(
    flopwise: Command, tmp_path: Path
) -> None:
    path = tmp_path / "ring.db"
    owner = Owner(namespace=ENEMY, pod=ENEMY, job=ENEMY, team=ENEMY)
    with Ring(path) as ring:
        for minute in range(40):
            ring.append([use(minute, owner, f"GPU-{ENEMY}", 0.0)])
    for command in (
        ("usage", path, "--by", "team,job"),
        ("usage", path, "--idle"),
        ("usage", path),
        ("top", path, "--once"),
    ):
        done = flopwise("telemetry", *command)
        assert done.code == 0, done.err
        assert [text for text in ENEMIES if text in done.out] == []
        assert len(done.out) < 5_000
    said = json.loads(flopwise("telemetry", "usage", path, "--by", "team", "-o", "json").out)
    assert said["usage"][0]["team"] == ENEMY  # JSON says what there is


ENEMIES = ("\x1b[2J", "\x9b", "\u202e")
