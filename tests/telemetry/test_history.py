"""The history: rows into days, days into hours, hours into usage; killed, repeated, reordered."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry import usage as by_hand
from telemetry.samples import GpuSample, SamplesError, append, to_line
from telemetry.store import Ring
from telemetry.usage import Usage
from telemetry.uses import NOBODY, Owner, Use

pa = pytest.importorskip("pyarrow", reason="the history needs flopwise[telemetry]")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb", reason="the history needs flopwise[telemetry]")

from telemetry.history import compact, hourly, importing, raw  # noqa: E402  # once it is there
from telemetry.history.place import HistoryError, Place, place  # noqa: E402  # as above

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
DAY = date(2026, 12, 1)
CHAT = Owner(namespace="nlp", pod="chat-0", job="chat", team="nlp")
TUNE = Owner(namespace="nlp", pod="tune-0", job="tune", team="nlp")
DRAW = Owner(namespace="art", pod="draw-0", job="draw", team="art", model="flux", project="ads")


def at(minute: float, owner: Owner = NOBODY, share: float = 1.0, **measures: Any) -> Use:
    sample = GpuSample(
        time=NOON + timedelta(minutes=minute),
        node="node-1",
        uuid="GPU-1",
        name="NVIDIA L4",
    )
    return Use(sample=replace(sample, **measures), owner=owner, share_fraction=share)


@pytest.fixture
def new_history() -> Iterator[Callable[[], Place]]:
    """Histories in memory, of one test alone."""
    made: list[Place] = []

    def make() -> Place:
        made.append(place(f"memory://{uuid.uuid4()}"))
        return made[-1]

    yield make
    for one in made:
        one.files.store.clear()


@pytest.fixture
def history(new_history: Callable[[], Place]) -> Place:
    return new_history()


def table(uses: Sequence[Use]) -> Any:
    rows = [
        {"time": use.sample.time, "share_fraction": use.share_fraction}
        | {name: getattr(use.owner, name) for name in Owner.__slots__}
        | {n: getattr(use.sample, n) for n in raw.TOLD.names if n in _PLAIN}
        for use in uses
    ]
    return raw.conformed(pa.Table.from_pylist(rows, schema=_SCHEMA))


_PLAIN = frozenset(GpuSample.__slots__) - {"time", "throttle_reasons"}
_SCHEMA = pa.schema(
    [
        (field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type)
        for field in raw.TOLD
        if field.name != "throttle_reasons"
    ]
)


def used(
    history: Place, *by: str, since: datetime | None = None, until: datetime | None = None
) -> dict[tuple[str, ...], Usage]:
    found = hourly.usage(history, by=by, since=since, until=until)
    assert len({one.of for one in found}) == len(found)
    return {one.of: one for one in found}


def ring_of(path: Path, uses: Sequence[Use]) -> Path:
    with Ring(path, keep=timedelta(days=100)) as ring:
        ring.append(uses)
    return path


def contents(history: Place) -> dict[str, list[dict[str, Any]]]:
    """Every file with its rows."""
    return {
        path: pq.read_table(pa.BufferReader(history.read(path))).to_pylist()
        for path in history.found("")
    }


def test_an_hour_adds_up_to_what_was_computed_by_hand(history: Place) -> None:
    # Four intervals of 15 minutes: chat at 50 % with half of it in the tensor pipes, chat idle,
    # tune at 80 %, nobody. 100 TFLOP/s for 900 s are 9e16. By the counter 900, 100, 800, 50 kJ.
    raw.add(
        history,
        table(
            [
                at(0, energy_joules=0.0),
                at(
                    15,
                    CHAT,
                    utilisation_fraction=0.5,
                    tensor_active_fraction=0.25,
                    tensor_tflops=100.0,
                    energy_joules=900e3,
                ),
                at(30, CHAT, utilisation_fraction=0.0, energy_joules=1000e3),
                at(45, TUNE, utilisation_fraction=0.8, energy_joules=1800e3),
                at(60, utilisation_fraction=0.0, energy_joules=1850e3),
            ]
        ),
    )
    hourly.roll_up(history)
    chat, tune, nobody = (used(history, "job")[key] for key in (CHAT_JOB, TUNE_JOB, ("",)))
    assert chat == Usage(
        of=("chat",),
        samples=2,
        observed_gpu_hours=0.5,
        allocated_gpu_hours=0.5,
        active_gpu_hours=0.25,
        idle_gpu_hours=0.25,
        utilised_gpu_hours=0.125,
        tensor_gpu_hours=0.0625,
        achieved_flops=9e16,
        energy_joules=1000e3,
        gap_gpu_hours=0.0,
    )
    assert tune.active_gpu_hours == 0.25
    assert tune.utilised_gpu_hours == pytest.approx(0.2)
    assert (tune.energy_joules, tune.achieved_flops) == (800e3, None)
    assert (nobody.allocated_gpu_hours, nobody.idle_gpu_hours) == (0, 0)
    assert nobody.energy_joules == 50e3


CHAT_JOB, TUNE_JOB = ("chat",), ("tune",)


def test_owners_of_a_share_have_that_share_and_the_rest_is_nobodys(history: Place) -> None:
    # An hour of 400 W: 1.44 MJ. Chat has a quarter, draw a half, a quarter is left.
    shared = [use for minute in (0, 60) for use in (at(minute, CHAT, 0.25), at(minute, DRAW, 0.5))]
    shared = [replace(u, sample=replace(u.sample, power_watts=400.0)) for u in shared]
    raw.add(history, table(shared))
    found = used(history, "team")
    hours = {team: one.observed_gpu_hours for (team,), one in found.items()}
    assert hours == {"nlp": 0.25, "art": 0.5, "": 0.25}
    assert [found[team,].energy_joules for team in ("nlp", "art")] == [0.36e6, 0.72e6]


def test_an_instance_is_the_part_of_its_gpu_that_its_memory_is(history: Place) -> None:
    # An hour of 360 W, 1.296 MJ. Of 80 GB, chat has an instance of 40 and half of one of 20: 5/8;
    # a quarter of the GPU has no instance, and half of the smaller one is nobody's. Instances tell
    # what the GPU did: 0.5 x 1/2 + 1 x 1/4. Their rates are theirs alone already.
    mig = [
        use
        for minute in (0, 60)
        for use in (
            at(minute, power_watts=360.0, memory_total_bytes=80, pids=(7,), tensor_tflops=900.0),
            at(
                minute,
                CHAT,
                uuid="MIG-1",
                parent_uuid="GPU-1",
                memory_total_bytes=40,
                sm_active_fraction=0.5,
                tensor_tflops=100.0,
            ),
            at(
                minute,
                CHAT,
                0.5,
                uuid="MIG-2",
                parent_uuid="GPU-1",
                memory_total_bytes=20,
                sm_active_fraction=1.0,
                tensor_tflops=80.0,
            ),
        )
    ]
    raw.add(history, table(mig))
    ((gpu, whole),) = used(history, "gpu").items()
    assert gpu == ("GPU-1",)
    assert (whole.observed_gpu_hours, whole.allocated_gpu_hours) == (1.0, 0.625)
    assert (whole.utilised_gpu_hours, whole.energy_joules) == (0.5, 1.296e6)
    chat = used(history, "job")[CHAT_JOB]
    assert (chat.observed_gpu_hours, chat.active_gpu_hours) == (0.625, 0.625)
    assert chat.energy_joules == pytest.approx(0.625 * 1.296e6)
    assert chat.achieved_flops == pytest.approx((100 + 0.5 * 80) * 1e12 * 3600)


def test_instances_whose_memory_is_not_known_share_alike(history: Place) -> None:
    parts = [
        at(minute, owner, uuid=f"MIG-{owner.job}", parent_uuid="GPU-1")
        for minute in (0, 60)
        for owner in (CHAT, DRAW)
    ]
    raw.add(history, table(parts))
    hours = {team: one.observed_gpu_hours for (team,), one in used(history, "team").items()}
    assert hours == {"nlp": 0.5, "art": 0.5}


def test_a_gpu_that_a_process_has_open_is_allocated(
    new_history: Callable[[], Place], tmp_path: Path
) -> None:
    uses = [at(m, utilisation_fraction=0.0, pids=(7,) if m <= 30 else ()) for m in range(61)]
    ring = ring_of(tmp_path / "ring.db", uses)
    lines = tmp_path / "samples.jsonl"
    append(lines, [use.sample for use in uses])
    from_ring, from_lines = new_history(), new_history()
    compact.compact(from_ring, ring, NOON)
    for one in importing.tables(lines):
        raw.add(from_lines, one)
    for history in (from_ring, from_lines):
        found = used(history)[()]
        assert found.observed_gpu_hours == 1.0
        assert found.idle_gpu_hours == found.allocated_gpu_hours == pytest.approx(0.5)


def test_shares_above_the_whole_are_scaled_to_it(history: Place) -> None:
    raw.add(history, table([u for m in (0, 60) for u in (at(m, CHAT), at(m, DRAW))]))
    hours = {team: one.observed_gpu_hours for (team,), one in used(history, "team").items()}
    assert hours == {"nlp": 0.5, "art": 0.5}


def test_a_counter_that_fell_has_restarted_and_counts_from_zero(history: Place) -> None:
    # 100 J, then a driver that starts anew and has counted 40 J, then 60 J more.
    joules = (5000.0, 5100.0, 40.0, 100.0)
    raw.add(history, table([at(m, energy_joules=j) for m, j in enumerate(joules)]))
    assert used(history, "node")["node-1",].energy_joules == 100 + 40 + 60


def test_nothing_is_assumed_about_a_gap(history: Place) -> None:
    # Usual interval a minute; 1 h is a gap: its hour counts for nothing but itself.
    raw.add(
        history,
        table([at(m, CHAT, utilisation_fraction=1.0, power_watts=60.0) for m in (0, 1, 2, 62, 63)]),
    )
    found = used(history, "job")[CHAT_JOB]
    assert found.observed_gpu_hours == pytest.approx(3 / 60)
    assert (found.gap_gpu_hours, found.energy_joules) == (1.0, 3 * 60 * 60)


def test_the_night_is_no_gap_and_its_last_minute_is_yesterdays(history: Place) -> None:
    # 12 h after noon is midnight. Minute 720 ends yesterday's last interval.
    raw.add(history, table([at(minute, CHAT) for minute in range(715, 726)]))
    hours = {day: one.observed_gpu_hours for (day,), one in used(history, "day").items()}
    assert hours == {"2026-12-01": pytest.approx(5 / 60), "2026-12-02": pytest.approx(5 / 60)}
    by_hour = [key for (key,) in used(history, "hour")]
    assert by_hour == ["2026-12-01T23:00:00Z", "2026-12-02T00:00:00Z"]


def test_days_may_come_in_any_order(new_history: Callable[[], Place]) -> None:
    first, later = new_history(), new_history()
    yesterday = table([at(m, CHAT, energy_joules=60.0 * m) for m in range(700, 721)])
    today = table([at(m, CHAT, energy_joules=60.0 * m) for m in range(721, 740)])
    for history, order in ((first, (yesterday, today)), (later, (today, yesterday))):
        for part in order:
            raw.add(history, part)
        hourly.roll_up(history)
    assert used(first, "hour") == used(later, "hour")
    assert used(later)[()].energy_joules == 60 * 39


def test_what_is_written_again_counts_once_and_the_later_word_holds(history: Place) -> None:
    minutes = [at(m, power_watts=60.0) for m in range(61)]
    raw.add(history, table(minutes))
    known = [replace(use, owner=CHAT) for use in minutes[31:]]
    raw.add(history, table([*known, *known]))
    raw.add(history, table(known))
    found = used(history, "job")
    assert found[CHAT_JOB].samples == 30
    assert found[CHAT_JOB].observed_gpu_hours == pytest.approx(0.5)
    assert sum(one.observed_gpu_hours for one in found.values()) == pytest.approx(1)


def test_two_nodes_and_gpus_keep_apart_and_a_name_may_hold_anything(history: Place) -> None:
    names = ("node-1", "a/../b", "été '; --", "")
    uses = [
        at(m, node=node, uuid=f"GPU-{node}-{gpu}")
        for m in range(61)
        for node in names
        for gpu in (1, 2)
    ]
    Random(0).shuffle(uses)
    raw.add(history, table(uses))
    hourly.roll_up(history)
    found = {node: one.observed_gpu_hours for (node,), one in used(history, "node").items()}
    assert found == {node: pytest.approx(2) for node in names}
    assert len(used(history, "gpu")) == 8


def test_a_range_has_its_first_hour_and_not_its_last(history: Place) -> None:
    raw.add(history, table([at(m) for m in range(0, 24 * 60 + 1, 10)]))
    hourly.roll_up(history)
    since, until = NOON + timedelta(hours=10), NOON + timedelta(hours=14)
    assert [hour for (hour,) in used(history, "hour", since=since, until=until)] == [
        *("2026-12-01T22:00:00Z", "2026-12-01T23:00:00Z"),
        *("2026-12-02T00:00:00Z", "2026-12-02T01:00:00Z"),
    ]
    assert used(history, since=since, until=until)[()].observed_gpu_hours == pytest.approx(4)
    assert used(history, since=NOON + timedelta(days=9)) == {}


def test_a_day_that_is_not_rolled_up_is_summed_from_its_rows(history: Place) -> None:
    raw.add(history, table([at(m, CHAT, utilisation_fraction=0.5) for m in range(721)]))
    hourly.roll_up(history)
    raw.add(history, table([at(m, CHAT, utilisation_fraction=0.5) for m in range(721, 1441)]))
    assert history.days(hourly.FOLDER) == (DAY,)
    before = used(history, "job", "day")
    assert hourly.roll_up(history) == (DAY + timedelta(days=1),)
    assert used(history, "job", "day") == before


def test_what_is_asked_wrongly_is_named(history: Place) -> None:
    raw.add(history, table([at(0)]))
    with pytest.raises(HistoryError, match="--by: found price, allowed: node, namespace, pod, job"):
        hourly.usage(history, by=["price"])
    with pytest.raises(HistoryError, match=r"--from: found 2026-12-01T12:30.*allowed: a full hour"):
        hourly.usage(history, by=[], since=NOON + timedelta(minutes=30))


known = st.fixed_dictionaries(
    {
        "utilisation_fraction": st.sampled_from((0.0, 0.25, 1.0)),
        "energy_joules": st.none() | st.integers(min_value=0, max_value=9).map(float),
        "power_watts": st.none() | st.sampled_from((0.0, 60.0, 600.0)),
    }
)
timeline = st.dictionaries(st.integers(min_value=1, max_value=700), known, min_size=2, max_size=25)


@settings(max_examples=10)
@given(st.lists(timeline, min_size=4, max_size=8))
def test_the_sums_are_those_of_the_samples_one_by_one(
    timelines: list[dict[int, dict[str, Any]]],
) -> None:
    history = place(f"memory://{uuid.uuid4()}")
    uses = [
        at(minute, CHAT, uuid=f"GPU-{gpu}", **measures)
        for gpu, line in enumerate(timelines)
        for minute, measures in line.items()
    ]
    raw.add(history, table(Random(0).sample(uses, len(uses) // 2)))
    raw.add(history, table(uses))
    hourly.roll_up(history)
    found = used(history, "gpu")
    for other in by_hand.usage(use.sample for use in uses):
        one = found[other.uuid,]
        assert one.observed_gpu_hours == pytest.approx(other.observed_gpu_hours)
        assert one.active_gpu_hours == pytest.approx(other.active_gpu_hours)
        assert one.utilised_gpu_hours == pytest.approx(_utilised(other))
        assert one.gap_gpu_hours == pytest.approx(other.gap_hours)
        assert one.energy_joules == pytest.approx(other.energy_joules)
    assert sum(one.samples for one in found.values()) == len(uses)
    history.files.store.clear()


def _utilised(gpu: by_hand.GpuUsage) -> float:
    return (gpu.mean_utilisation_fraction or 0.0) * gpu.observed_gpu_hours


def two_days(path: Path) -> Path:
    return ring_of(
        path,
        [
            at(m, CHAT if m % 3 else DRAW, utilisation_fraction=0.5, energy_joules=60.0 * m)
            for m in range(0, 1000, 5)
        ],
    )


def test_a_store_is_compacted_and_again_is_the_same(history: Place, tmp_path: Path) -> None:
    ring = two_days(tmp_path / "ring.db")
    done = compact.compact(history, ring, NOON)
    assert (done.rows, done.rolled_up) == (200, (DAY, DAY + timedelta(days=1)))
    before = contents(history)
    # 200 rows of 5 minutes, the first of which ends nothing: 199 x 5 / 60 h.
    assert used(history)[()].observed_gpu_hours == pytest.approx(199 * 5 / 60)
    again = compact.compact(history, ring, NOON)
    assert (again.rolled_up, again.dropped, contents(history)) == ((), (), before)
    assert again.rows < 40  # an hour of each day, for clocks that step back


def test_a_compaction_goes_on_where_the_last_one_ended(history: Place, tmp_path: Path) -> None:
    ring = two_days(tmp_path / "ring.db")
    compact.compact(history, ring, NOON)
    # The ring has lost its first day meanwhile; the history has not.
    with Ring(ring, keep=timedelta(hours=1)) as file:
        file.append([at(1000, CHAT, energy_joules=60_000.0)])
        file.trim()
    compact.compact(history, ring, NOON)
    found = used(history)[()]
    assert (found.samples, found.energy_joules) == (201, 60_000.0)
    assert found.observed_gpu_hours == pytest.approx(200 * 5 / 60)


def test_a_compaction_killed_before_any_write_ends_where_it_would_have(
    new_history: Callable[[], Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    ring = two_days(tmp_path / "ring.db")
    whole = new_history()
    compact.compact(whole, ring, NOON)
    real = Place.write
    for killed_at in count():
        left = [killed_at]

        def write(self: Place, path: str, content: bytes, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            real(self, path, content)

        history = new_history()
        with monkeypatch.context() as patch:
            patch.setattr(Place, "write", write)
            try:
                compact.compact(history, ring, NOON)
                break
            except Killed:
                pass
        compact.compact(history, ring, NOON)
        rows = contents(history)
        assert rows == contents(whole)
    assert killed_at == 4  # two raw files and two of sums were written


def test_in_a_folder_a_torn_file_is_never_seen_and_is_swept_away(tmp_path: Path) -> None:
    history = place(str(tmp_path / "history"))
    ring = two_days(tmp_path / "ring.db")
    compact.compact(history, ring, NOON)
    before = contents(history)
    torn = tmp_path / "history" / f"{raw.path_of(DAY, 'node-1')}.part"
    torn.write_bytes(b"PAR1 half")
    assert used(history)[()].samples == 200
    compact.compact(history, ring, NOON)
    assert contents(history) == before
    assert not torn.exists()


def test_raw_rows_go_by_age_and_by_size_and_their_sums_stay(history: Place, tmp_path: Path) -> None:
    ring = ring_of(tmp_path / "ring.db", [at(60 * hour, CHAT) for hour in range(24 * 5)])
    now = NOON + timedelta(days=5)
    compact.compact(history, ring, now)
    before = used(history, "hour")
    ring.unlink()
    # Days of 1 to 6 December; on the 6th, three days back is the 3rd.
    done = compact.compact(history, None, now, compact.Kept(raw=timedelta(days=3)))
    assert done.dropped == ("raw/day=2026-12-01", "raw/day=2026-12-02")
    one_day = history.size_bytes(raw.folder_of(date(2026, 12, 4)))
    done = compact.compact(history, None, now, compact.Kept(raw_bytes=round(2.9 * one_day)))
    assert done.dropped == ("raw/day=2026-12-03", "raw/day=2026-12-04")
    assert (done.rolled_up, used(history, "hour")) == ((), before)
    kept = compact.Kept(raw=timedelta(days=1), hourly=timedelta(days=1))
    compact.compact(history, None, now, kept)
    assert history.days(hourly.FOLDER) == (date(2026, 12, 5), date(2026, 12, 6))
    assert used(history, "hour", since=datetime(2026, 12, 5, tzinfo=UTC)).items() <= before.items()
    with pytest.raises(HistoryError, match="found 1 days, allowed: at least as long as raw rows"):
        compact.Kept(hourly=timedelta(days=1))


def test_a_store_that_still_has_a_part_of_what_was_dropped_changes_no_sums(
    history: Place, tmp_path: Path
) -> None:
    ring, now = two_days(tmp_path / "ring.db"), NOON + timedelta(days=9)
    compact.compact(history, ring, now, compact.Kept(raw=timedelta(days=3)))
    before = used(history, "job", "hour")
    with Ring(ring, keep=timedelta(hours=1)) as file:
        file.trim()
    done = compact.compact(history, ring, now, compact.Kept(raw=timedelta(days=3)))
    assert (done.rows, done.rolled_up, used(history, "job", "hour")) == (0, (), before)
    raw.add(history, table([at(990, CHAT)]))  # nor does a file that is imported
    assert (hourly.roll_up(history), used(history, "job", "hour")) == ((), before)


def test_json_lines_and_parquet_are_imported_alike(
    new_history: Callable[[], Place], tmp_path: Path
) -> None:
    samples = [
        replace(at(m).sample, power_watts=70.0, throttle_reasons=("hot", "power"), pids=(17,))
        for m in range(61)
    ]
    lines, parquet = tmp_path / "samples.jsonl", tmp_path / "samples.parquet"
    append(lines, samples)
    with lines.open("a") as file:
        file.write('{"time": "2026-12-01T')  # a writer that was killed
    (table_of_lines,) = importing.tables(lines)
    assert table_of_lines["throttle_reasons"].to_pylist() == ["hot,power"] * 61
    pq.write_table(table_of_lines, parquet)
    histories = [new_history() for _ in range(2)]
    for history, path in zip(histories, (lines, parquet), strict=True):
        for one in importing.tables(path):
            raw.add(history, one)
    assert contents(histories[0]) == contents(histories[1])
    assert used(histories[1])[()].energy_joules == pytest.approx(70 * 3600)


def test_what_the_fast_reader_cannot_take_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    large = replace(at(0).sample, ecc_corrected=2**64 - 1, ecc_uncorrected=5)
    append(path, [large, at(1).sample])
    (found,) = importing.tables(path)
    assert found["ecc_corrected"].to_pylist() == [None, None]  # no column holds it
    assert found["ecc_uncorrected"].to_pylist() == [5, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utilisation_fraction": 87}, "utilisation_fraction: found 87, allowed: a number from 0"),
        ({"time": "2026-12-01T12:00:00"}, "time: found '2026-12-01T12:00:00', allowed: an ISO"),
        ({"uuid": None}, "uuid: found None, allowed: text"),
        ({"power_watts": -1}, "power_watts: found -1, allowed: a number, 0 or above"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "samples.jsonl"
    right = to_line(at(0).sample)
    path.write_text(f"{right}\n{json.dumps(json.loads(right) | change)}\n")
    with pytest.raises(SamplesError, match=rf"samples\.jsonl: line 2: {message}"):
        list(importing.tables(path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "node: found no such column, allowed: "),
        ({"node": [1]}, "node: found int64, allowed: text"),
        ({"node": [None]}, "node: found nothing in a row, allowed: text"),
        ({"utilisation_fraction": [87.0]}, "utilisation_fraction: found 87.0, allowed: numbers f"),
        ({"utilisation_fraction": ["a"]}, "utilisation_fraction: found .*, allowed: numbers from"),
        ({"power_watts": [float("nan")]}, "power_watts: found nan, allowed: numbers, 0 or above"),
        ({"time": [datetime(2026, 12, 1)]}, "time: found times without a zone, allowed: times"),  # noqa: DTZ001  # what is refused
    ],
)
def test_a_wrong_column_is_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = tmp_path / "samples.parquet"
    right = {"time": [NOON], "uuid": ["GPU-1"], "name": ["NVIDIA L4"]}
    if columns:
        right["node"] = ["node-1"]
    pq.write_table(pa.table(right | columns), path)
    with pytest.raises(HistoryError, match=rf"samples\.parquet: {message}"):
        list(importing.tables(path))


def test_a_url_without_a_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(HistoryError, match=r"s3://bucket/x: found no driver.*pip install s3fs"):
        place("s3://bucket/x")
    with pytest.raises(HistoryError, match=r"ftq://x: found Protocol not known.*allowed: a path"):
        place("ftq://x")


def test_the_collector_loads_nothing_heavy() -> None:
    told = "import sys, flopwise.telemetry, telemetry.store; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"pyarrow", "duckdb", "fsspec", "numpy", "pandas"}
    assert heavy.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"{}", None])
def test_files_of_others_in_a_history_are_named(history: Place, content: bytes | None) -> None:
    if content is None:  # another's columns
        out = pa.BufferOutputStream()
        pq.write_table(pa.table({"song": ["a"]}), out)
        content = out.getvalue().to_pybytes()
    raw.add(history, table([at(0, CHAT), at(1, CHAT)]))
    hourly.roll_up(history)
    path = raw.path_of(DAY, "node-1")
    history.files.pipe_file(f"{history.root}/{path}", content)
    with pytest.raises(HistoryError, match="found "):
        _through(history)


def test_sums_of_others_are_named_or_made_anew(history: Place) -> None:
    raw.add(history, table([at(0, CHAT), at(1, CHAT)]))
    path = f"{history.root}/{hourly.path_of(DAY)}"
    history.files.pipe_file(path, b"PAR1 and no more")
    with pytest.raises(HistoryError, match="found "):
        hourly.roll_up(history)
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"song": ["a"]}), out)
    history.files.pipe_file(path, out.getvalue().to_pybytes())
    assert hourly.roll_up(history) == (DAY,)
    assert used(history, "job")[CHAT_JOB].samples == 2


def _through(history: Place) -> None:
    """All that reads what is there."""
    raw.add(history, table([at(2, CHAT)]))
    hourly.roll_up(history)
    used(history, "job")


def test_folders_that_name_no_day_are_passed_over(history: Place) -> None:
    raw.add(history, table([at(0), at(1)]))
    for day in ("2026-13-45", "x", ""):
        history.files.pipe_file(f"{history.root}/raw/day={day}/node=a/samples.parquet", b"no")
    assert history.days(raw.FOLDER) == (DAY,)
    assert hourly.roll_up(history) == (DAY,)


def test_an_hour_that_is_lived_twice_makes_no_energy(history: Place) -> None:
    # The clock goes back by an hour after the second hour, and tells it once more, half a minute
    # beside the first time. 120 W of a counter near 1 GJ: never more than 120 W for 2 hours.
    first = [at(m, CHAT, energy_joules=1e9 + 7200 * m, power_watts=120.0) for m in range(121)]
    again = [
        at(m + 0.5, CHAT, energy_joules=1e9 + 7200 * (m + 60), power_watts=120.0)
        for m in range(60, 120)
    ]
    raw.add(history, table([*first, *again]))
    found = used(history)[()]
    assert found.observed_gpu_hours == pytest.approx(2)
    assert found.energy_joules == pytest.approx(2 * 3600 * 120)


def test_an_hour_that_the_clock_leaps_is_a_gap_and_no_more(history: Place) -> None:
    joules = iter(range(10**6))
    minutes = [*range(30), *range(91, 121)]  # 61 minutes between two that follow one another
    uses = [at(m, CHAT, energy_joules=60.0 * next(joules)) for m in minutes]
    raw.add(history, table(uses))
    found = used(history)[()]
    assert (round(found.observed_gpu_hours * 60), round(found.gap_gpu_hours * 60)) == (58, 62)
    assert found.energy_joules == 58 * 60


@pytest.mark.parametrize("text", ["\x1b[2J", "<b>&\"'", "a\nb\tc", "n" * 10_000, "\u202e", "../.."])
def test_names_of_others_are_kept_as_they_are(history: Place, text: str) -> None:
    owner = Owner(namespace=text, pod=text, job=text, team=text)
    raw.add(history, table([at(0, owner, node=text[:100]), at(1, owner, node=text[:100])]))
    hourly.roll_up(history)
    assert used(history, "team", "node")[text, text[:100]].samples == 2
