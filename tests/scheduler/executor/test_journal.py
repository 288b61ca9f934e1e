"""What is written is what is read, whatever happens in between."""

from __future__ import annotations

import multiprocessing
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from scheduler.executor.clock import PlanClock
from scheduler.executor.journal import Journal, StateDirectory, default_root, held
from scheduler.executor.launches import Launch
from scheduler.executor.records import (
    Ended,
    Ending,
    Event,
    Outcome,
    Run,
    RunOpened,
    RunStatus,
    Settled,
    SubmitIntended,
    Submitted,
    fold,
)

T0 = datetime(2026, 12, 1, tzinfo=UTC)
LAUNCH = Launch(
    name="a",
    job="a",
    entrypoint="run",
    gpu_milli=(("n0", 8000),),
    start=T0,
    end=T0 + timedelta(hours=1),
)
OPENED = RunOpened(
    run="r", at=T0, clock=PlanClock(real=T0, plan=T0, speed=60), launches=(LAUNCH,), planned=True
)
STORY: tuple[Event, ...] = (
    OPENED,
    SubmitIntended(run="r", launch="a", attempt=1, head="ray1", at=T0),
    Submitted(run="r", launch="a", attempt=1),
    Ended(
        run="r",
        launch="a",
        attempt=1,
        ending=Ending(status=RunStatus.SUCCEEDED, start=T0, end=T0, exit_code=0),
    ),
    Settled(run="r", launch="a", outcome=Outcome.SUCCEEDED),
)


def written(path: Path, *events: Event) -> Journal:
    journal = Journal(path)
    journal.append(*events)
    return journal


def test_a_new_reader_sees_what_was_written(tmp_path: Path) -> None:
    written(tmp_path / "j", *STORY)
    assert Journal(tmp_path / "j").refresh() == fold({}, STORY)
    assert Journal(tmp_path / "j").refresh()["r"].finished


def test_a_reader_sees_what_another_writer_adds(tmp_path: Path) -> None:
    journal = written(tmp_path / "j", OPENED)
    assert not journal.refresh()["r"].records["a"].attempts
    Journal(tmp_path / "j").append(*STORY[1:3])
    assert journal.refresh()["r"].records["a"].attempts[0].submitted


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert Journal(tmp_path / "none").refresh() == {}


@given(st.integers(1, 2000))
def test_a_journal_cut_anywhere_is_read_up_to_the_cut_and_written_on(cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j"
        written(path, *STORY)
        whole = path.read_bytes()
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert Journal(path).refresh() == fold({}, STORY[:kept])
        written(path, *STORY[kept:])
        assert Journal(path).refresh() == fold({}, STORY)


@given(st.lists(st.sampled_from(STORY[1:]), max_size=8))
def test_an_event_told_twice_is_one_event(extra: list[Event]) -> None:
    assert fold({}, (*STORY, *extra)) == fold({}, STORY)


def test_events_of_unknown_runs_and_launches_change_nothing() -> None:
    elsewhere = (Submitted(run="other", launch="a", attempt=1),)
    unknown = (Settled(run="r", launch="b", outcome=Outcome.FAILED),)
    assert fold({}, (*STORY, *elsewhere, *unknown)) == fold({}, STORY)


def test_the_fold_of_no_event_is_a_run_that_waits() -> None:
    run: Run = fold({}, [OPENED])["r"]
    assert not run.finished
    assert run.clock.plan_time(T0 + timedelta(seconds=1)) == T0 + timedelta(minutes=1)


def _hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    with held(path) as ours:
        assert ours
        ready.set()
        multiprocessing.Event().wait(60)


def test_a_lock_keeps_a_second_out_until_its_holder_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", ready))
    holder.start()
    try:
        assert ready.wait(30)
        with held(tmp_path / "lock") as ours:
            assert not ours
        holder.kill()
        holder.join()
        with held(tmp_path / "lock", patience_seconds=5) as ours:
            assert ours
    finally:
        holder.kill()


def test_the_state_directory_is_closed_to_others(tmp_path: Path) -> None:
    state = StateDirectory(root=tmp_path / "a" / "b")
    state.create()
    assert {p.stat().st_mode & 0o77 for p in (state.root, state.ray, *state.root.iterdir())} == {0}


def test_the_state_directory_is_named_by_the_environment() -> None:
    home = Path.home() / ".local" / "state" / "flopwise"
    assert default_root({"FLOPWISE_STATE_DIR": "/s", "XDG_STATE_HOME": "/x"}) == Path("/s")
    assert default_root({"XDG_STATE_HOME": "/x"}) == Path("/x/flopwise")
    assert default_root({}) == home
