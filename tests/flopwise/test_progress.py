"""The line that tells a person how far a solve is."""

from __future__ import annotations

import math

from flopwise.progress import Progress
from planner.solve.clock import Step


def step(**known: float) -> Step:
    values = {"seconds": 1.0, "bound_usd": 90.0, "best_usd": 100.0, "gap_fraction": 0.1}
    return Step(doing="packing", **(values | known))


def test_the_line_shows_the_time_used_what_is_done_and_what_is_known() -> None:
    # 15 of 60 s: two and a half of ten marks.
    progress = Progress(60.0)
    assert progress.line(15.0) == "[##........]  15.0 s  preparing"
    progress.hear(step())
    assert progress.line(15.0) == (
        "[##........]  15.0 s  packing: best $100, bound $90, gap 10.00 %"
    )
    progress.stopping = True
    assert "stopping: best $100" in progress.line(15.0)


def test_before_the_first_plan_nothing_is_claimed_and_the_bar_ends_at_the_limit() -> None:
    progress = Progress(60.0)
    progress.hear(step(best_usd=math.inf, gap_fraction=math.inf))
    assert progress.line(90.0) == ("[##########]  90.0 s  packing: best none yet, bound $90, gap -")


def test_nothing_is_written_where_nobody_watches() -> None:
    progress = Progress(60.0)
    progress.draw()  # pytest's standard error is no terminal
    progress.clear()
    assert progress.shown == ""
