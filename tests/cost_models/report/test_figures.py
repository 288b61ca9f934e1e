"""Figures that say what the ledger says."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from cost_models.ledger import Key, Line, LineKind
from cost_models.report import Report, bars, figures, timelines
from cost_models.report.look import Figure, colours_of, time

graph_objects = pytest.importorskip("plotly.graph_objects")


def values(figure: Figure) -> float:
    return sum(sum(trace["x"]) for trace in figure.data)


def test_every_figure_is_one_that_plotly_accepts(sample: Report) -> None:
    drawn = figures.all_of(sample)
    parts = ["by-team", "by-project", "by-pool", "by-job"]
    assert list(drawn) == [*parts, "gantt", "use", "idle", "compared", "measured"]
    for figure in drawn.values():
        graph_objects.Figure(data=figure.data, layout=figure.layout)


def test_bars_sum_to_the_ledger(sample: Report) -> None:
    ledger = sample.plan.ledger
    for key in (Key.TEAM, Key.POOL):
        figure = bars.breakdown(key, ledger, colours_of(ledger))
        assert values(figure) == pytest.approx(ledger.total.usd)
        assert figure.note == ""


def test_a_long_break_down_says_how_much_it_leaves_to_the_table(sample: Report) -> None:
    ledger = sample.plan.ledger
    figure = bars.breakdown(Key.JOB, ledger, colours_of(ledger))
    # 40 jobs and what no job carries are 41; 12 are drawn
    assert figure.note == "The 12 dearest; 29 more in the table."


def test_the_gantt_has_each_stretch_of_work_once(sample: Report) -> None:
    ledger = sample.plan.ledger
    figure = timelines.gantt(ledger, colours_of(ledger))
    pieces = [trace for trace in figure.data if trace["hoverinfo"] == "text"]
    work = [line for line in ledger.lines if line.kind is LineKind.WORK]
    assert sum(len(trace["y"]) for trace in pieces) == len(work)
    hours = sum((x.end - x.start) / timedelta(hours=1) for x in work)
    assert sum(sum(trace["x"]) for trace in pieces) == pytest.approx(hours * 3_600_000)
    assert figure.note == ""


def test_no_two_stretches_share_a_row_at_a_time(sample: Report) -> None:
    work = [line for line in sample.plan.ledger.lines if line.kind is LineKind.WORK]
    placed, headers, rows = timelines.lanes(work)
    by_row: dict[int, list[Line]] = {}
    for line, row in placed:
        by_row.setdefault(row, []).append(line)
    for lines in by_row.values():
        assert len({line.pool for line in lines}) == 1
        ordered = sorted(lines, key=lambda x: x.start)
        assert all(a.end <= b.start for a, b in pairwise(ordered))
    assert sorted([*by_row, *headers.values()]) == list(range(rows))


def test_a_service_keeps_its_row_and_has_its_name_once(sample: Report) -> None:
    ledger = sample.plan.ledger
    placed, _, _ = timelines.lanes([x for x in ledger.lines if x.kind is LineKind.WORK])
    assert len({row for line, row in placed if line.job == "chat-llama-70b"}) == 1
    names = [t for f in timelines.gantt(ledger, colours_of(ledger)).data for t in f.get("text", ())]
    assert names.count("chat-llama-70b") == 1


def test_a_gantt_of_too_many_stretches_says_so(sample: Report) -> None:
    first = next(line for line in sample.plan.ledger.lines if line.job)
    ledger = replace(sample.plan.ledger, lines=(first,) * (timelines.BAR_LIMIT + 1))
    assert (
        timelines.gantt(ledger, colours_of(ledger)).note == "The 4,000 longest of 4,001 stretches."
    )


def test_mean_gpus_keep_the_gpu_hours(sample: Report) -> None:
    ledger = sample.plan.ledger
    work = [line for line in ledger.lines if line.kind is LineKind.WORK]
    means = timelines.mean_gpus(ledger, work)
    assert len(means) == 168
    assert sum(means) == pytest.approx(sum(line.gpu_hours for line in work))


def test_mean_gpus_average_over_a_long_period(sample: Report) -> None:
    # 8 GPUs in the first hour of 6720 h: in 336 parts of 20 h, 8/20 = 0.4 in the first.
    start = sample.plan.ledger.start
    ledger = replace(sample.plan.ledger, end=start + timedelta(hours=6720))
    line = replace(ledger.lines[0], start=start, end=start + timedelta(hours=1), gpus=8.0)
    assert timelines.mean_gpus(ledger, [line]) == pytest.approx([0.4] + [0.0] * 335)


def test_use_has_a_panel_a_pool_and_no_stack_above_what_there_is(sample: Report) -> None:
    figure = figures.all_of(sample)["use"]
    stacks: dict[str, list[float]] = {}
    limits: dict[str, float] = {}
    for trace in figure.data:
        if trace.get("stackgroup"):
            sums = stacks.setdefault(trace["yaxis"], [0.0] * len(trace["y"]))
            stacks[trace["yaxis"]] = [a + b for a, b in zip(sums, trace["y"], strict=True)]
        else:
            limits[trace["yaxis"]] = max(trace["y"])
    assert len(limits) == 6
    assert all(max(stacks[axis]) <= limits[axis] + 1e-6 for axis in stacks)


def test_idle_bars_sum_to_what_unused_gpus_cost(sample: Report) -> None:
    unused = sample.plan.ledger.only(lambda line: line.kind is not LineKind.WORK)
    assert values(figures.all_of(sample)["idle"]) == pytest.approx(unused.total.full_usd)


def test_what_a_report_lacks_is_not_drawn(sample: Report) -> None:
    work = sample.plan.ledger.only(lambda line: line.kind is LineKind.WORK)
    bare = replace(sample, plan=replace(sample.plan, ledger=work), baseline=None, measured=())
    assert {"idle", "compared", "measured"}.isdisjoint(figures.all_of(bare))


def test_a_run_that_ends_after_the_plan_is_drawn_to_its_end(sample: Report) -> None:
    ledger = sample.plan.ledger
    late = replace(sample.measured[0], end=ledger.end + timedelta(days=3))
    drawn = figures.all_of(replace(sample, measured=(late, *sample.measured[1:])))["measured"]
    start, end = drawn.layout["xaxis"]["range"]
    assert (start, end) == (time(ledger.start), time(ledger.end + timedelta(days=3)))


def test_names_are_escaped_in_every_label(sample: Report) -> None:
    evil = "<img src=x>"
    lines = tuple(
        replace(x, pool=evil, job=x.job and evil, team=x.team and evil, nodes=(evil,))
        for x in sample.plan.ledger.lines
    )
    report = replace(
        sample,
        plan=replace(sample.plan, ledger=replace(sample.plan.ledger, lines=lines)),
        capacity=tuple(replace(c, pool=evil) for c in sample.capacity),
        measured=tuple(replace(m, job=evil, pool=evil) for m in sample.measured),
    )
    texts = [t for f in figures.all_of(report).values() for t in strings([f.data, f.layout])]
    assert any("&lt;img src=x&gt;" in text for text in texts)
    assert not any("<img" in text for text in texts)


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in strings(part)]
