"""Writers: actions are carried out side by side, evictions first, one at a time for each job.

What waits is bounded by the jobs there are: an action of a job and kind that waits is replaced by a
later one. How fast they go is the client's token bucket; which goes next is the order here.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

Job = Callable[[], Any]
Done = Callable[[Hashable, Any, Exception | None], None]


@dataclass(order=True, slots=True)
class _Waiting:
    rank: int
    number: int
    lane: Hashable = field(compare=False)
    work: Job = field(compare=False)
    replaced: bool = field(default=False, compare=False)


class Hands:
    """``workers`` threads; ``done(lane, result, error)`` is called in one of them."""

    def __init__(self, done: Done, workers: int = 16) -> None:
        self._done = done
        self._heap: list[_Waiting] = []
        self._waiting: dict[Hashable, _Waiting] = {}
        self._busy: set[Hashable] = set()
        self._numbers = itertools.count()
        self._change = threading.Condition()
        self._ended = False
        self._threads = [
            threading.Thread(target=self._run, name=f"hand-{n}", daemon=True)
            for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """How much waits or is being done."""
        return len(self._waiting) + len(self._busy)

    def is_busy(self, lane: Hashable) -> bool:
        """Whether something of this lane waits or is being done."""
        return lane in self._busy or lane in self._waiting

    def put(self, lane: Hashable, rank: int, work: Job) -> None:
        """Do ``work`` after what has a lower ``rank``; what waits in its lane is dropped for it."""
        with self._change:
            old = self._waiting.pop(lane, None)
            if old is not None:
                old.replaced = True
            made = _Waiting(rank, next(self._numbers), lane, work)
            self._waiting[lane] = made
            heapq.heappush(self._heap, made)
            self._change.notify()

    def drop(self) -> None:
        """Forget all that waits."""
        with self._change:
            self._heap.clear()
            self._waiting.clear()

    def end(self, within_seconds: float = 0.0) -> None:
        """Take nothing more; what is being done has so long to end."""
        with self._change:
            self._ended = True
            self._heap.clear()
            self._waiting.clear()
            self._change.notify_all()
        for thread in self._threads:
            thread.join(within_seconds)

    def _next(self) -> _Waiting | None:
        with self._change:
            while not self._ended:
                held = []
                found = None
                while self._heap and found is None:
                    first = heapq.heappop(self._heap)
                    if first.replaced:
                        continue
                    if first.lane in self._busy:
                        held.append(first)
                    else:
                        found = first
                for each in held:
                    heapq.heappush(self._heap, each)
                if found is not None:
                    del self._waiting[found.lane]
                    self._busy.add(found.lane)
                    return found
                self._change.wait()
        return None

    def _run(self) -> None:
        while (found := self._next()) is not None:
            result, error = None, None
            try:
                result = found.work()
            except Exception as raised:  # noqa: BLE001  # whatever it is, it is told, and tried again
                error = raised
            with self._change:
                self._busy.discard(found.lane)
                self._change.notify()
            self._done(found.lane, result, error)
