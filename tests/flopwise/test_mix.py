"""``flopwise mix`` as its user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flopwise.errors import BAD_INPUT, INFEASIBLE
from tests.flopwise.command import Command

ASKED = {
    "gpu_info": {
        "small": {"cost": 1.0, "tputs": [[4]]},
        "large": {"cost": 2.2, "tputs": [[10]]},
    },
    "workload_distribution": [[1.0]],
    "total_request_rate": 13.0,
    "slice_factor": 1,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "melange.json"
    path.write_text(json.dumps(ASKED), encoding="utf-8")
    return path


def test_the_cheapest_gpus_are_told(file: Path, flopwise: Command) -> None:
    # 13 requests: one of each carries 14 for $3.20, 4 small $4.00, 2 large $4.40.
    ended = flopwise("mix", file)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "GPU    count  $/h each   $/h  requests/s",
        "small      1      1.00  1.00        3.71",
        "large      1      2.20  2.20        9.29",
        "",
        "$3.20 an hour: the least there is, proved",
    ]


def test_another_program_gets_it_as_json(file: Path, flopwise: Command) -> None:
    told = json.loads(flopwise("mix", file, "-o", "json").out)
    split = told.pop("split")
    assert told == {
        "gpus": {"small": 1, "large": 1},
        "usdPerHour": 3.2,
        "boundUsdPerHour": 3.2,
        "gapFraction": 0.0,
    }
    assert split["0,0"] == pytest.approx({"small": 4 / 14, "large": 10 / 14})


def test_a_size_that_no_gpu_serves_has_no_mix(file: Path, flopwise: Command) -> None:
    gpus = {"small": {"cost": 1.0, "tputs": [[0]]}}
    file.write_text(json.dumps({**ASKED, "gpu_info": gpus}), encoding="utf-8")
    ended = flopwise("mix", file)
    assert (ended.code, ended.out) == (INFEASIBLE, "")
    said = "no mix: no GPU serves the requests of bucket 0,0"
    assert ended.lines == [f"flopwise: {file}: {said}"]


def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path, flopwise: Command) -> None:
    ended = flopwise("mix", tmp_path / "none.json")
    assert (ended.code, ended.out) == (BAD_INPUT, "")
    assert ended.lines == [f"flopwise: {tmp_path}/none.json: No such file or directory"]


def test_a_time_limit_of_nothing_is_bad_input(file: Path, flopwise: Command) -> None:
    ended = flopwise("mix", file, "--time-limit", "0s")
    assert ended.code == BAD_INPUT
    assert "Traceback" not in ended.err
