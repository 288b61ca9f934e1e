"""The sample file: what is written is read, what is torn is left out, what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.samples import (
    GpuProcess,
    GpuSample,
    Health,
    RemappedRows,
    SamplesError,
    append,
    from_line,
    read,
    to_line,
)

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)

amounts = st.floats(min_value=0, max_value=1e15)
counts = st.integers(min_value=0, max_value=2**63)
fractions = st.floats(min_value=0, max_value=1)
degrees = st.floats(min_value=-40, max_value=120)
any_sample = st.builds(
    GpuSample,
    time=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5))])),
    node=st.text(),
    uuid=st.text(),
    name=st.text(),
    utilisation_fraction=st.none() | fractions,
    memory_used_bytes=st.none() | counts,
    memory_total_bytes=st.none() | counts,
    power_watts=st.none() | amounts,
    energy_joules=st.none() | amounts,
    temperature_celsius=st.none() | degrees,
    sm_clock_mhz=st.none() | counts,
    pids=st.none() | st.lists(counts, max_size=3).map(tuple),
    parent_uuid=st.none() | st.text(),
    mig_profile=st.none() | st.text(),
    memory_reserved_bytes=st.none() | counts,
    memory_utilisation_fraction=st.none() | fractions,
    power_average_watts=st.none() | amounts,
    power_limit_watts=st.none() | amounts,
    memory_temperature_celsius=st.none() | degrees,
    memory_clock_mhz=st.none() | counts,
    sm_clock_max_mhz=st.none() | counts,
    memory_clock_max_mhz=st.none() | counts,
    throttle_reasons=st.none() | st.lists(st.text(), max_size=3).map(tuple),
    throttled_seconds=st.none() | st.dictionaries(st.text(), amounts, max_size=3),
    ecc_corrected=st.none() | counts,
    ecc_uncorrected=st.none() | counts,
    retired_pages=st.none() | counts,
    remapped_rows=st.none()
    | st.builds(
        RemappedRows,
        corrected=counts,
        uncorrected=counts,
        pending=st.booleans(),
        failed=st.booleans(),
    ),
    nvlink_tx_bytes=st.none() | counts,
    nvlink_rx_bytes=st.none() | counts,
    pcie_tx_bytes=st.none() | counts,
    pcie_rx_bytes=st.none() | counts,
    clique=st.none() | st.text(),
    recovery_action=st.none() | st.text(),
    last_xid=st.none() | counts,
    sm_active_fraction=st.none() | fractions,
    sm_occupancy_fraction=st.none() | fractions,
    tensor_active_fraction=st.none() | fractions,
    dram_active_fraction=st.none() | fractions,
    tensor_tflops=st.none() | amounts,
    processes=st.none()
    | st.lists(
        st.builds(
            GpuProcess,
            pid=counts,
            memory_bytes=st.none() | counts,
            utilisation_fraction=st.none() | fractions,
        ),
        max_size=3,
    ).map(tuple),
    health=st.none() | st.sampled_from(Health),
    health_reason=st.none() | st.text(),
)


def sample(minute: int = 0, uuid: str = "GPU-1") -> GpuSample:
    return GpuSample(
        time=NOON + timedelta(minutes=minute),
        node="node-1",
        uuid=uuid,
        name="NVIDIA L4",
        power_watts=70.5,
        pids=(17,),
    )


@given(any_sample)
def test_a_sample_survives_its_line(one: GpuSample) -> None:
    line = to_line(one)
    assert "\n" not in line
    assert from_line(line) == one


def test_a_line_says_what_is_known_and_nothing_else() -> None:
    rows = RemappedRows(corrected=1, uncorrected=0, pending=True, failed=False)
    one = replace(sample(), remapped_rows=rows, health=Health.WATCH)
    assert to_line(one) == (
        '{"time": "2026-12-01T12:00:00+00:00", "node": "node-1", "uuid": "GPU-1", '
        '"name": "NVIDIA L4", "power_watts": 70.5, "pids": [17], "remapped_rows": '
        '{"corrected": 1, "uncorrected": 0, "pending": true, "failed": false}, "health": "watch"}'
    )


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        GpuSample(time=datetime(2026, 12, 1), node="n", uuid="u", name="x")  # noqa: DTZ001  # what is refused


def test_fields_of_a_later_version_are_left_out() -> None:
    later = json.loads(to_line(sample())) | {"answers_given": 42}
    assert from_line(json.dumps(later)) == sample()


def test_a_second_append_adds_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    append(path, [sample(0), sample(0, "GPU-2")])
    append(path, [sample(1)])
    assert list(read(path)) == [sample(0), sample(0, "GPU-2"), sample(1)]


@pytest.mark.parametrize("left", [1, 5, 40, -1])
def test_a_torn_last_line_is_left_out_and_then_cut_off(tmp_path: Path, left: int) -> None:
    path = tmp_path / "samples.jsonl"
    whole = to_line(sample(0)) + "\n"
    path.write_text(whole + to_line(sample(1))[:left])
    assert list(read(path)) == [sample(0)]
    append(path, [sample(2)])
    assert path.read_text() == whole + to_line(sample(2)) + "\n"


def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("chapter one\nIt was a dark")
    with pytest.raises(SamplesError, match=r"thesis\.txt: last line: found b'It was a dark'"):
        append(path, [sample()])
    assert path.read_text() == "chapter one\nIt was a dark"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": "2026-12-01T12:00:00"}, "time: found '2026-12-01T12:00:00', allowed: an ISO"),
        ({"time": None}, "time: found None, allowed: an ISO 8601 time with its zone"),
        ({"uuid": 7}, "uuid: found 7, allowed: text"),
        ({"utilisation_fraction": 87}, "utilisation_fraction: found 87, allowed: a number from 0"),
        ({"power_watts": float("nan")}, "power_watts: found nan, allowed: a number, 0 or above"),
        ({"power_watts": True}, "power_watts: found True, allowed: a number, 0 or above"),
        ({"memory_used_bytes": -1}, "memory_used_bytes: found -1, allowed: a whole number"),
        ({"pids": [1.5]}, r"pids: found \[1.5\], allowed: a list of whole numbers"),
        ({"throttle_reasons": "hot"}, "throttle_reasons: found 'hot', allowed: a list of texts"),
        ({"throttled_seconds": {"hot": -1}}, "throttled_seconds: found .*, allowed: an object of"),
        (
            {"remapped_rows": {"pending": 1}},
            "remapped_rows: found .*, allowed: an object with corr",
        ),
        ({"processes": [{}]}, r"processes: found \[\{\}\], allowed: a list of objects with pid"),
        ({"health": "ill"}, "health: found 'ill', allowed: fine, watch or cordon"),
    ],
)
def test_a_wrong_value_names_file_line_and_field(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "samples.jsonl"
    wrong = json.dumps(json.loads(to_line(sample())) | change)
    path.write_text(f"{to_line(sample())}\n{wrong}\n")
    with pytest.raises(SamplesError, match=rf"samples\.jsonl: line 2: {message}"):
        list(read(path))


@pytest.mark.parametrize("line", ["garbage", "[1, 2]", "", "\x00\xff"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(SamplesError, match=r"line 1: found .*, allowed: a JSON object"):
        list(read(path))


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="uuid: found nothing, allowed: text"):
        from_line('{"time": "2026-12-01T12:00:00Z", "node": "n", "name": "x"}')
