"""``flopwise telemetry top``: one frame as text, and the live view under Textual's pilot."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from flopwise.live import Choice, Table, Window, of_file, of_prometheus, rows, seen, summary
from flopwise.top import RED, Top
from telemetry.idle import Rule
from telemetry.live import Now
from telemetry.samples import append
from telemetry.scrape import Prometheus
from telemetry.store import Ring
from telemetry.uses import Use
from tests.flopwise.command import Command
from tests.telemetry import made_up

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("top") / "ring.db"
    made_up.write(path)
    return path


@pytest.fixture(scope="module")
def cluster() -> Now:
    return seen([one for minute in range(61) for one in made_up.uses(minute)], Rule(), 2.0)


def piloted(look: Callable[[], Now], script: Callable[[Top, Pilot[None]], Awaitable[None]]) -> None:
    """Shows the view on a screen of 132 columns and does what the script says."""

    async def show() -> None:
        app = Top(look, interval_seconds=3600, choice=Choice(), clock=lambda: made_up.END)
        async with app.run_test(size=(132, 34)) as pilot:
            await pilot.pause()
            await script(app, pilot)

    asyncio.run(show())


def shown(app: Top) -> list[list[str]]:
    table = app.query_one(DataTable)
    return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]


def test_one_frame_says_what_burns_and_what_is_idle(flopwise: Command, store: Path) -> None:
    done = flopwise("telemetry", "top", store, "--once", "--usd-per-gpu-hour", 2)
    head, empty, titles, *found = done.out.splitlines()
    assert "3 nodes, 18 GPUs, 16 held" in head
    assert "$36.00/h burning   $4.00/h of it idle" in head
    assert (empty, titles.split()[:3]) == ("", ["NODE", "GPU", "NAME"])
    assert len(found) == 18
    assert [line.split()[-2:] for line in found if "notebook" in line] == [["idle", "47m"]] * 2


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["--table", "jobs", "--sort", "-gpus"], "assistant/llama33-70b-sft"),
        (["--table", "nodes", "--sort", "active"], "l4-edge"),
        (["--idle"], "h100-b"),
        (["--filter", "L4"], "l4-edge"),
    ],
)
def test_tables_sort_and_filter(
    flopwise: Command, store: Path, options: list[str], first: str
) -> None:
    done = flopwise("telemetry", "top", store, "--once", *options)
    assert done.out.splitlines()[3].split()[0] == first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--table", "racks"], "found 'racks', allowed: gpus, nodes, jobs"),
        (["--sort", "-size"], "found '-size', allowed: node, gpu, name"),
        (["--interval", "0"], "found '0', allowed: a length above 0"),
    ],
)
def test_wrong_options_are_usage_errors(
    flopwise: Command, store: Path, options: list[str], said: str
) -> None:
    done = flopwise("telemetry", "top", store, "--once", *options)
    assert done.code == 2
    assert said in " ".join(done.err.split())


def test_a_file_that_is_not_there_is_one_line(flopwise: Command, tmp_path: Path) -> None:
    done = flopwise("telemetry", "top", tmp_path / "none", "--once")
    assert (done.code, done.lines) == (2, [f"flopwise: {tmp_path}/none: No such file or directory"])


def test_this_machines_gpus_over_the_driver(driver: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flopwise", "telemetry", "top", "--once"],
        cwd=ROOT,
        env=os.environ | {"LD_LIBRARY_PATH": str(driver)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 node, 2 GPUs" in done.stdout
    assert "GPU-00000001" in done.stdout


def test_what_is_idle_is_red_and_what_is_free_is_grey(cluster: Now) -> None:
    async def script(app: Top, pilot: Pilot[None]) -> None:
        table = app.query_one(DataTable)
        styles = {
            str(table.get_row_at(row)[1]): table.get_row_at(row)[0].style
            for row in range(table.row_count)
        }
        assert [name[-2:] for name, style in styles.items() if style == RED] == ["04", "05"]
        assert sum(style == "grey58" for style in styles.values()) == 2
        line = app.query_one("#summary", Static).render()
        assert "$36.00/h burning" in str(line)

    piloted(lambda: cluster, script)


def test_keys_choose_sort_and_filter(cluster: Now) -> None:
    async def script(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("j")
        assert [row[0] for row in shown(app)] == [
            *("assistant/llama33-70b-dpo", "assistant/llama33-70b-sft"),
            *("research/notebook-ada", "search/reranker"),
        ]
        await pilot.press("s", "s")  # by GPUs, the most first
        assert [row[2] for row in shown(app)] == ["8", "4", "2", "2"]
        await pilot.press("r")
        assert [row[2] for row in shown(app)] == ["2", "2", "4", "8"]
        await pilot.press("n")
        assert [row[0] for row in shown(app)] == ["h100-a", "h100-b", "l4-edge"]
        await pilot.press("g", "i")
        assert {row[3] for row in shown(app)} == {"research/notebook-ada"}
        await pilot.press("escape", "slash", *"rerank", "enter")
        assert app.query_one("#filter", Input).value == "rerank"
        assert len(shown(app)) == 2
        await pilot.press("escape")
        assert len(shown(app)) == 18

    piloted(lambda: cluster, script)


def test_a_click_on_a_heading_sorts_by_it(cluster: Now) -> None:
    async def script(app: Top, pilot: Pilot[None]) -> None:
        await pilot.click(DataTable, offset=(3, 0))  # the first column: the other way round
        assert shown(app)[0][0] == "l4-edge"
        title = app.query_one(DataTable).ordered_columns[0].label
        assert isinstance(title, Text)
        assert title.plain == "NODE ▼"

    piloted(lambda: cluster, script)


def test_what_cannot_be_read_is_said_and_the_last_view_stays(cluster: Now) -> None:
    looks = iter([cluster])

    def look() -> Now:
        try:
            return next(looks)
        except StopIteration:
            raise OSError("the disk is gone") from None

    async def script(app: Top, pilot: Pilot[None]) -> None:
        await app.read()
        assert "the disk is gone" in str(app.query_one("#summary", Static).render())
        assert len(shown(app)) == 18

    piloted(look, script)


def test_a_picture_is_drawn(flopwise: Command, store: Path, tmp_path: Path) -> None:
    picture = tmp_path / "top.svg"
    assert flopwise("telemetry", "top", store, "--svg", picture).code == 0
    text = picture.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "llama33-70b-sft" in text


def test_the_window_forgets_what_is_older_and_keeps_the_newest() -> None:
    window = Window(timedelta(minutes=10))
    start = made_up.END

    def tick(seconds: float) -> list[Use]:
        use = next(made_up.uses(0))
        return [replace(use, sample=replace(use.sample, time=start + timedelta(seconds=seconds)))]

    for second in range(1201):
        window.add(tick(second))
    times = [(use.sample.time - start).total_seconds() for use in window.uses()]
    assert times[-1] == 1200
    assert 590 <= times[0] <= 600
    assert len(times) == 62  # one in ten seconds
    window.add(tick(1203))
    assert window.uses()[-1].sample.time == start + timedelta(seconds=1203)


def test_a_file_is_read_anew_when_it_has_changed(tmp_path: Path) -> None:
    path, ring = tmp_path / "s.jsonl", tmp_path / "ring.db"
    append(path, [use.sample for use in made_up.uses(0)])
    read = of_file(path, timedelta(minutes=30))
    assert len(read()) == 18
    assert read() is read()
    append(path, [use.sample for use in made_up.uses(59)])
    assert len(read()) == 36  # twice the window is kept
    append(path, [use.sample for use in made_up.uses(60)])
    assert len(read()) == 36  # and no more: minute 0 is an hour before the newest
    with Ring(ring) as kept:
        kept.append(made_up.uses(0))
        read = of_file(ring, timedelta(minutes=30))
        assert len(read()) == 18
        kept.append(made_up.uses(30))
        assert len(read()) == 36


@dataclass(frozen=True)
class Kept(Prometheus):
    """A Prometheus that has kept the made-up cluster, minute by minute."""

    asked: list[str] = field(default_factory=list)

    def between(
        self, since: datetime, until: datetime, step: timedelta
    ) -> Iterator[tuple[Use, ...]]:
        self.asked.append(f"{(until - since) / step:.1f} minutes")
        yield tuple(use for minute in range(30, 60) for use in made_up.uses(minute))

    def now(self, time: datetime | None = None) -> tuple[Use, ...]:
        self.asked.append("now")
        return tuple(made_up.uses(60))


def test_a_prometheus_is_asked_for_the_window_once_and_then_for_what_is_new() -> None:
    source = Kept(url="http://none")
    read = of_prometheus(source, timedelta(minutes=30), lambda: made_up.END)
    assert len(seen(read(), Rule(window=timedelta(minutes=20)), 2.0).gpus) == 18
    found = seen(read(), Rule(window=timedelta(minutes=20)), 2.0)
    assert source.asked == ["30.2 minutes", "now", "now"]
    lazy = [gpu for gpu in found.gpus if gpu.idle_for is not None]
    assert [gpu.owner.job for gpu in lazy] == ["notebook-ada", "notebook-ada"]
    assert lazy[0].idle_for == timedelta(minutes=30)


def test_a_prometheus_that_does_not_answer_is_one_line(flopwise: Command) -> None:
    done = flopwise("telemetry", "top", "--once", "--prometheus", "http://127.0.0.1:9")
    assert done.code == 1
    assert len(done.lines) == 1
    assert "http://127.0.0.1:9" in done.err


def test_rows_that_are_equal_stay_in_the_order_of_their_names(cluster: Now) -> None:
    found = rows(cluster, Choice(table=Table.GPUS, column=11, descending=True))
    assert [row.cells[0] for row in found] == ["h100-a"] * 8 + ["h100-b"] * 8 + ["l4-edge"] * 2


def test_an_old_frame_says_how_old_it_is(cluster: Now) -> None:
    pieces = summary(cluster, made_up.END + timedelta(minutes=30))
    assert pieces[-1] == ("2026-12-01 13:00:00 UTC, 30m ago", True)
