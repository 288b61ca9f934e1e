"""What the demo measures where there is no GPU: a fake driver, and it says so."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from flopwise import demo
from telemetry.samples import read


def test_without_a_driver_a_fake_one_is_measured_and_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("no C compiler for the fake driver: apt install gcc libc6-dev")
    monkeypatch.setattr(demo, "_has_driver", lambda: False)
    samples = tmp_path / "samples.jsonl"
    with demo._gpus_measured(samples, tmp_path) as source:
        assert "fake" in source
        for _ in range(300):
            if samples.exists() and len(list(read(samples))) >= 2:
                break
            time.sleep(0.1)
    uuids = {sample.uuid for sample in read(samples)}
    assert uuids == {"GPU-00000000", "GPU-00000001"}


def test_without_a_compiler_nothing_is_measured_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_has_driver", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with demo._gpus_measured(tmp_path / "samples.jsonl", tmp_path) as source:
        assert source == ""
    assert "no GPU is measured" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
