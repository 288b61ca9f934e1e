"""Writers: evictions first, one at a time for each job, the newest of what waits."""

from __future__ import annotations

import threading
from typing import Any

from scheduler.controller.hands import Hands


class Bench:
    """Hands of one worker that is held up, so that things wait; and what came of them."""

    def __init__(self, workers: int = 1) -> None:
        self.done: list[tuple[Any, Any, Any]] = []
        self.order: list[str] = []
        self.gate = threading.Event()
        self.changed = threading.Condition()
        self.hands = Hands(self._tell, workers)

    def _tell(self, lane: Any, result: Any, error: Exception | None) -> None:
        with self.changed:
            self.done.append((lane, result, error))
            self.changed.notify()

    def hold(self, lane: str = "gate") -> None:
        began = threading.Event()

        def work() -> None:
            began.set()
            self.gate.wait(10)

        self.hands.put(lane, 0, work)
        assert began.wait(10)

    def put(self, lane: str, rank: int, name: str = "") -> None:
        self.hands.put(lane, rank, lambda: self.order.append(name or lane))

    def all_done(self, count: int) -> list[str]:
        self.gate.set()
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.done) >= count, 10)
        self.hands.end(1.0)
        return self.order


def test_what_has_the_lower_rank_goes_first_and_else_who_came_first() -> None:
    bench = Bench()
    bench.hold()
    bench.put("launch-a", 2)
    bench.put("launch-b", 2)
    bench.put("stop", 0)
    assert bench.all_done(4) == ["stop", "launch-a", "launch-b"]


def test_what_waits_in_a_lane_is_replaced_by_what_comes_after_it() -> None:
    bench = Bench()
    bench.hold()
    bench.put("job", 5, "old")
    bench.put("job", 5, "new")
    assert bench.all_done(2) == ["new"]


def test_a_lane_is_never_worked_on_twice_at_once() -> None:
    bench = Bench(workers=4)
    bench.hold("job")
    bench.put("job", 0, "second")
    bench.put("other", 9, "other")
    with bench.changed:
        assert bench.changed.wait_for(lambda: bench.order == ["other"], 10)
    assert bench.hands.is_busy("job")
    assert bench.all_done(3) == ["other", "second"]


def test_what_fails_is_told_with_its_error_and_the_rest_goes_on() -> None:
    bench = Bench()
    bench.hold()

    def fails() -> None:
        raise OSError("no")

    bench.hands.put("bad", 1, fails)
    bench.put("good", 2)
    assert bench.all_done(3) == ["good"]
    errors = {lane: error for lane, _, error in bench.done}
    assert isinstance(errors["bad"], OSError)
    assert errors["good"] is None
