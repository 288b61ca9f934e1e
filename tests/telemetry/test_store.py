"""The ring on the node: what is written is read, what is old goes, what is killed is whole."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import store
from telemetry.samples import GpuProcess, GpuSample, Health, RemappedRows
from telemetry.store import Ring, StoreError, read, ticks_by_day
from telemetry.uses import NOBODY, Owner, Use

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
CHAT = Owner(namespace="nlp", pod="chat-0", job="chat", team="nlp", model="llama", project="bot")
TUNE = Owner(namespace="nlp", pod="tune-0", job="tune", team="nlp")


def sample(second: float = 0, uuid: str = "GPU-1") -> GpuSample:
    return GpuSample(
        time=NOON + timedelta(seconds=second), node="node-1", uuid=uuid, name="NVIDIA L4"
    )


FULL = replace(
    sample(),
    utilisation_fraction=0.25,
    memory_used_bytes=2**34,
    energy_joules=123.456,
    pids=(17, 4),
    parent_uuid="GPU-0",
    mig_profile="1g.10gb",
    throttle_reasons=("power_cap", "thermal"),
    throttled_seconds={"power_cap": 1.5},
    remapped_rows=RemappedRows(corrected=1, uncorrected=0, pending=True, failed=False),
    ecc_corrected=2**64 - 1,  # more than an SQLite integer holds
    clique="c.1",
    recovery_action="none",
    processes=(GpuProcess(pid=17, memory_bytes=5),),
    health=Health.WATCH,
    health_reason="a row waits to be remapped",
)


def test_what_is_appended_is_read_with_all_its_fields(tmp_path: Path) -> None:
    uses = [
        Use(sample=FULL, owner=CHAT, share_fraction=0.75),
        Use(sample=FULL, owner=TUNE, share_fraction=0.25),
        Use(sample=sample(0, "GPU-2")),
    ]
    with Ring(tmp_path / "ring.db") as ring:
        ring.append(uses)
    assert list(read(tmp_path / "ring.db")) == uses


@given(
    st.lists(
        st.builds(
            replace,
            st.just(FULL),
            uuid=st.text(),
            power_watts=st.none() | st.floats(min_value=0, max_value=1e15),
            memory_used_bytes=st.none() | st.integers(min_value=0, max_value=2**64),
            health_reason=st.none() | st.text(),
        ),
        unique_by=lambda one: one.uuid,
    )
)
def test_any_sample_survives_the_store(
    tmp_path_factory: pytest.TempPathFactory, samples: list[GpuSample]
) -> None:
    path = tmp_path_factory.mktemp("store") / "ring.db"
    with Ring(path) as ring:
        ring.append_samples(samples)
    assert [use.sample for use in read(path)] == samples


def test_a_tick_written_again_replaces_the_first(tmp_path: Path) -> None:
    with Ring(tmp_path / "ring.db") as ring:
        ring.append_samples([sample(0)])
        ring.append_samples([replace(sample(0), power_watts=70.0), sample(1)])
    found = [use.sample for use in read(tmp_path / "ring.db")]
    assert found == [replace(sample(0), power_watts=70.0), sample(1)]


def test_since_is_left_out_and_until_is_in(tmp_path: Path) -> None:
    with Ring(tmp_path / "ring.db") as ring:
        ring.append_samples([sample(0), sample(1), sample(2), sample(3)])
    first, last = NOON + timedelta(seconds=1), NOON + timedelta(seconds=3)
    found = [use.sample for use in read(tmp_path / "ring.db", since=first, until=last)]
    assert found == [sample(2), sample(3)]


def test_an_instant_at_midnight_belongs_to_the_day_it_ends(tmp_path: Path) -> None:
    # 43,200 s after noon is midnight: it tells about the time before it.
    with Ring(tmp_path / "ring.db") as ring:
        ring.append_samples([sample(0), sample(43_200), sample(43_201)])
    first = datetime(2026, 12, 1, tzinfo=UTC)
    assert ticks_by_day(tmp_path / "ring.db") == {
        first: (2, NOON + timedelta(hours=12)),
        first + timedelta(days=1): (1, NOON + timedelta(hours=12, seconds=1)),
    }


def test_what_is_older_than_the_newest_by_more_than_is_kept_goes(tmp_path: Path) -> None:
    with Ring(tmp_path / "ring.db", keep=timedelta(seconds=10)) as ring:
        for second in range(100):
            ring.append_samples([sample(second)])
        ring.trim()
    found = [use.sample.time for use in read(tmp_path / "ring.db")]
    assert (found[0], len(found)) == (NOON + timedelta(seconds=89), 11)


def test_a_store_stays_within_its_bytes_and_keeps_the_newest(tmp_path: Path) -> None:
    path, bound = tmp_path / "ring.db", 400_000
    note = "x" * 400
    with Ring(path, keep_bytes=bound) as ring:
        for second in range(3000):
            ring.append_samples([replace(sample(second), health_reason=note)])
        ring.trim()
    found = [use.sample.time for use in read(path)]
    # 3,000 rows of half a kB are 1.5 MB; 60 ticks, 30 kB, may come between two looks.
    assert path.stat().st_size <= bound + 60_000
    assert found[-1] == NOON + timedelta(seconds=2999)
    assert 400 < len(found) < 1000
    assert len(found) == (found[-1] - found[0]).total_seconds() + 1


def test_owners_that_no_row_names_go_too(tmp_path: Path) -> None:
    # A pod every ten minutes for ten days would be 1,440 owners: of two hours, and of the hour
    # before that, there are 18 and one at each end.
    with Ring(tmp_path / "ring.db", keep=timedelta(hours=2)) as ring:
        for number in range(1440):
            pod = Owner(namespace="nlp", pod=f"pod-{number}")
            ring.append([Use(sample=sample(600 * number), owner=pod)])
    file = sqlite3.connect(tmp_path / "ring.db")
    (left,) = file.execute("SELECT count(*) FROM owners").fetchone()
    file.close()
    assert left <= 20
    found = [use.owner.pod for use in read(tmp_path / "ring.db")]
    assert found == [f"pod-{number}" for number in range(1427, 1440)]


def test_an_owner_that_stays_is_remembered(tmp_path: Path) -> None:
    with Ring(tmp_path / "ring.db", keep=timedelta(hours=1)) as ring:
        for minute in range(600):
            ring.append([Use(sample=sample(60 * minute), owner=CHAT)])
    assert {use.owner for use in read(tmp_path / "ring.db")} == {CHAT}


def test_a_tick_that_fails_leaves_nothing_and_the_next_one_is_whole(tmp_path: Path) -> None:
    class Full(RuntimeError):
        pass

    def half() -> Iterator[Use]:
        yield Use(sample=sample(0, "GPU-9"), owner=TUNE)
        raise Full

    with Ring(tmp_path / "ring.db") as ring:
        with pytest.raises(Full):
            ring.append(half())
        ring.append([Use(sample=sample(1, "GPU-9"), owner=TUNE)])
    assert [(use.sample, use.owner) for use in read(tmp_path / "ring.db")] == [
        (sample(1, "GPU-9"), TUNE)
    ]


def test_a_store_of_an_earlier_version_gets_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ring.db"
    with Ring(path) as ring:
        ring.append_samples([replace(sample(0), power_watts=70.0, dram_active_fraction=0.5)])
    file = sqlite3.connect(path)
    file.execute("ALTER TABLE uses DROP COLUMN dram_active_fraction")
    file.close()
    # A reader takes it as it is; the writer adds the column, and the old row has nothing in it.
    assert [use.sample for use in read(path)] == [replace(sample(0), power_watts=70.0)]
    later = replace(sample(1), dram_active_fraction=0.25)
    with Ring(path) as ring:
        ring.append_samples([later])
    assert [use.sample for use in read(path)] == [replace(sample(0), power_watts=70.0), later]
    monkeypatch.setattr(
        store, "MIGRATIONS", (*store.MIGRATIONS, "ALTER TABLE uses RENAME COLUMN rest TO others")
    )
    Ring(path).close()
    file = sqlite3.connect(path)
    assert file.execute("PRAGMA user_version").fetchone() == (2,)
    assert file.execute("SELECT count(others), count(*) FROM uses").fetchone() == (0, 2)
    file.close()


def test_a_store_of_a_later_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ring.db"
    Ring(path).close()
    file = sqlite3.connect(path)
    file.execute("PRAGMA user_version = 9")
    file.close()
    for use_it in (Ring, lambda path: list(read(path))):
        with pytest.raises(StoreError, match=r"ring\.db: found a store of version 9, allowed: up"):
            use_it(path)


def test_files_of_something_else_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("It was a dark and stormy night. " * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"thesis\.txt: found file is not a database, allowed: a"):
        Ring(path)
    assert path.read_bytes() == before
    other = tmp_path / "other.db"
    file = sqlite3.connect(other)
    file.execute("CREATE TABLE songs (name TEXT)")
    file.close()
    with pytest.raises(StoreError, match=r"other\.db: found another program's database"):
        Ring(other)
    with pytest.raises(StoreError, match=r"none\.db: found no file"):
        list(read(tmp_path / "none.db"))
    with pytest.raises(StoreError, match=r"ring\.db: found unable to open database file"):
        Ring(tmp_path / "no folder" / "ring.db")


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_part_of_the_whole(share: float) -> None:
    with pytest.raises(ValueError, match=r"share_fraction: found .*, allowed: a number from 0 to"):
        Use(sample=sample(), owner=NOBODY, share_fraction=share)


def test_a_hundred_kills_cost_at_most_the_tick_that_was_being_written(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("kill_the_writer.py"))]
    done = subprocess.run(
        [*command, str(tmp_path / "ring.db"), "100", "0"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == 100
    assert [kill for kill in kills if not kill["whole"]] == []
    # What was done is there; what was begun may be there, for the commit came before the kill.
    assert [kill for kill in kills if not kill["done"] <= kill["there"] <= kill["begun"]] == []
    # The run got somewhere, trims included, and kills fell into ticks.
    assert kills[-1]["there"] > 400
    assert Counter(kill["done"] < kill["begun"] for kill in kills)[True] > 0


def test_the_store_loads_nothing_heavy() -> None:
    told = "import sys, telemetry.store; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "sqlite3" in done.stdout.split()
    heavy = {"numpy", "pandas", "pyarrow", "duckdb", "fsspec", "pydantic", "pynvml"}
    assert heavy.isdisjoint(done.stdout.split())


def test_a_full_disk_is_said_and_the_next_tick_with_room_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "ring.db"
    with Ring(path) as ring:
        ring.append_samples([sample(0)])
        (pages,) = ring._file.execute("PRAGMA page_count").fetchone()
        ring._file.execute(f"PRAGMA max_page_count = {pages}")
        many = [sample(1, f"GPU-{n}") for n in range(500)]
        with pytest.raises(StoreError, match=r"ring\.db: found database or disk is full"):
            ring.append_samples(many)
        ring._file.execute("PRAGMA max_page_count = 100000")
        ring.append_samples(many)
    assert len(list(read(path))) == 501


@pytest.mark.parametrize("left", [0.2, 0.5, 0.9])
def test_a_store_that_was_cut_off_or_overwritten_is_named(tmp_path: Path, left: float) -> None:
    path = tmp_path / "ring.db"
    with Ring(path) as ring:
        for second in range(50):
            ring.append_samples([sample(second, f"GPU-{n}") for n in range(20)])
    whole = path.read_bytes()
    middle = round(len(whole) * left)
    for damaged in (whole[:middle], whole[:4096] + bytes(len(whole) - 4096)):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"ring\.db: found .*, allowed: a store of samples"):
            list(read(path))


def test_a_row_that_no_sample_can_be_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ring.db"
    for change in ("utilisation_fraction = 7", "rest = '{'", "power_watts = 'a'", "rest = '[]'"):
        with Ring(path) as ring:
            ring.append_samples([replace(sample(0), pids=(1,))])
            ring._file.execute(f"UPDATE uses SET {change}")
        with pytest.raises(StoreError, match=r"ring\.db: a row: .*, allowed: what was sampled"):
            list(read(path))
        path.unlink()


def test_a_clock_that_was_ahead_for_a_moment_takes_no_rows_with_it(tmp_path: Path) -> None:
    path = tmp_path / "ring.db"
    with Ring(path, keep=timedelta(days=2)) as ring:
        for second in (0, 1, 400 * 86_400, 3600, 2):
            ring.append_samples([sample(second)])
        ring.trim()
    # What lies an hour ahead has been: the clock was right then.
    seconds = [(use.sample.time - sample(0).time).total_seconds() for use in read(path)]
    assert seconds == [0, 1, 2, 3600]
