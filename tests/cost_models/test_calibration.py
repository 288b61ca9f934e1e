"""The factors by hand: with deviations 0.15, 0.15, 0.15 and 0.1, and r = log(measured/promised)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.calibration import (
    NONE,
    Calibration,
    CalibrationError,
    Measurement,
    Subject,
    drifts,
    read,
    write,
)

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
H100 = "h100-sxm5-80gb"
LLAMA = Subject(model="llama-3.1-8b", accelerator=H100, precision="bf16", method="Full")


def measured(
    ratio: float, subject: Subject = LLAMA, job: str = "sft", hours: float = 0.0
) -> Measurement:
    """10,000 tokens a second and GPU promised, at 41 GFLOP a token: 410 TFLOP/s."""
    return Measurement(
        subject=subject,
        job=job,
        time=NOON + timedelta(hours=hours),
        gpus=8,
        unit="tokens",
        promised_per_gpu_second=10_000.0,
        measured_per_gpu_second=10_000.0 * ratio,
        flops_per_work=41e9,
    )


def test_nothing_measured_corrects_nothing() -> None:
    # 1.645 x sqrt(3 x 0.15^2) = 0.427: nine in ten lie between 0.65 and 1.53.
    factor = NONE.factor(LLAMA)
    assert (factor.value, factor.runs) == (1.0, 0)
    assert factor.low == pytest.approx(math.exp(-0.42739), rel=1e-4)
    assert factor.high == pytest.approx(math.exp(0.42739), rel=1e-4)


def test_one_run_is_believed_for_the_most_part() -> None:
    # r = log(0.68) = -0.38566; of it 0.0675 / (0.0675 + 0.01) = 0.87097: exp(-0.33590) = 0.7147.
    # What is left of the variance: 0.0675 x (1 - 0.87097) = 0.0087097, 1.645 sd = 0.15352.
    factor = Calibration((measured(0.68),)).factor(LLAMA)
    assert factor.value == pytest.approx(0.7147, abs=1e-4)
    assert factor.low == pytest.approx(0.7147 * math.exp(-0.15352), abs=1e-4)
    assert factor.high == pytest.approx(0.7147 * math.exp(0.15352), abs=1e-4)
    assert factor.runs == 1


def test_more_runs_are_believed_more() -> None:
    # Four runs: 0.0675 / (0.0675 + 0.01 / 4) = 0.96429 of -0.38566: exp(-0.37189) = 0.6894.
    four = Calibration(tuple(measured(0.68, job=f"sft-{n}") for n in range(4)))
    assert four.factor(LLAMA).value == pytest.approx(0.6894, abs=1e-4)
    assert four.factor(LLAMA).runs == 4


def test_the_same_accelerator_and_the_same_model_tell_something() -> None:
    # One of three parts of the variance is shared: 0.0225 / 0.0775 = 0.29032 of -0.38566.
    one = Calibration((measured(0.68),))
    other_model = replace(LLAMA, model="qwen2.5-7b")
    other_accelerator = replace(LLAMA, accelerator="a100-sxm4-80gb")
    expected = pytest.approx(math.exp(-0.38566 * 0.29032), abs=1e-4)
    assert one.factor(other_model).value == expected
    assert one.factor(other_accelerator).value == expected
    # Another method on the same accelerator with the same model shares two of three.
    assert one.factor(replace(LLAMA, method="Lora")).value == pytest.approx(
        math.exp(-0.38566 * 2 * 0.29032), abs=1e-4
    )
    assert one.factor(replace(other_model, accelerator="l4")).value == 1.0


def test_work_without_a_model_shares_no_model() -> None:
    flops = replace(LLAMA, model="")
    one = Calibration((measured(0.68, flops),))
    assert one.factor(replace(flops, accelerator="l4")).value == 1.0


def test_of_one_job_the_newest_measurement_counts() -> None:
    twice = Calibration((measured(0.5, hours=0), measured(0.68, hours=1)))
    assert twice.factor(LLAMA).value == pytest.approx(0.7147, abs=1e-4)
    assert twice.factor(LLAMA).runs == 1


def test_the_same_measurement_again_changes_nothing() -> None:
    once = NONE.with_more([measured(0.68)])
    assert once.with_more([measured(0.68)]) == once


def test_a_drift_says_what_was_promised_what_measured_and_since_when() -> None:
    # 0.95 is within a tenth; then 0.70 and 0.66: on average 0.68 of 410 TFLOP/s are 279.
    rows = [measured(r, hours=h) for h, r in enumerate([0.6, 0.95, 0.70, 0.66])]
    (drift,) = drifts(rows)
    assert (drift.since, drift.measurements) == (NOON + timedelta(hours=2), 2)
    assert str(drift) == (
        "promised 410 TFLOP/s, measured 279 TFLOP/s a GPU (68%) since 2026-12-01 14:00 UTC"
    )


def test_within_tolerance_is_no_drift_and_faster_is_one() -> None:
    assert drifts([measured(0.6), measured(0.91, hours=1)]) == ()
    (fast,) = drifts([measured(0.6), measured(1.2, hours=1)])
    assert fast.since == NOON + timedelta(hours=1)
    assert len(drifts([measured(0.91)], tolerance_fraction=0.05)) == 1


def test_where_flops_are_not_known_the_unit_of_work_is_said() -> None:
    (drift,) = drifts([replace(measured(0.5), flops_per_work=0.0)])
    assert "promised 1e+04 tokens/s, measured 5,000 tokens/s a GPU" in str(drift)


def test_the_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    made = Calibration((measured(0.68), measured(0.9, job="other", hours=1)))
    write(tmp_path / "c.json", made)
    assert read(tmp_path / "c.json") == made
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpus": 0}, "measurements[0].gpus: found 0, allowed: 1 or more"),
        ({"time": "2026-12-01"}, "measurements[0].time: found '2026-12-01', allowed: a time with"),
        ({"measured_per_gpu_second": -1}, "measured_per_gpu_second: found -1.0, allowed: a number"),
        ({"subject": 7}, "measurements[0].subject: found 7, allowed: an object"),
        ({"subject": {"model": ""}}, "measurements[0].accelerator: found None, allowed: text"),
    ],
)
def test_a_wrong_file_names_the_field(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = tmp_path / "c.json"
    write(path, Calibration((measured(0.68),)))
    document = json.loads(path.read_text())
    document["measurements"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(CalibrationError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "Plan"}', '{"kind": "Calibration"}'])
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CalibrationError, match="allowed"):
        read(tmp_path / "c.json")


subjects = st.builds(
    Subject,
    model=st.sampled_from(["", "a", "b"]),
    accelerator=st.sampled_from(["x", "y"]),
    precision=st.sampled_from(["bf16", "fp8"]),
    method=st.just("Full"),
)
rows = st.lists(
    st.builds(
        measured,
        ratio=st.floats(0.2, 5.0),
        subject=subjects,
        job=st.sampled_from("pqr"),
        hours=st.floats(0, 100),
    ),
    max_size=8,
)


@given(rows, subjects)
def test_a_factor_stays_near_what_was_measured_and_measuring_narrows_it(
    found: list[Measurement], subject: Subject
) -> None:
    factor = Calibration(tuple(found)).factor(subject)
    assert factor.low <= factor.value <= factor.high
    prior = NONE.factor(subject)
    assert math.log(factor.high / factor.low) <= math.log(prior.high / prior.low) + 1e-9
    alike = [measured(0.5, one.subject, one.job) for one in found]
    # An accelerator and a model that are both slow elsewhere may add up to a little below 0.5.
    assert 0.45 <= Calibration(tuple(alike)).factor(subject).value <= 1.0 + 1e-9
