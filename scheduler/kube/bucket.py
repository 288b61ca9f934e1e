"""How many requests an API server gets from us."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Bucket:
    """Lets ``qps`` calls a second through, after ``burst`` at once. Safe between threads."""

    def __init__(
        self,
        qps: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if qps <= 0 or burst < 1:
            raise ValueError(f"found {qps} qps, burst {burst}; allowed: above 0, and 1 or more")
        self._qps, self._burst, self._clock, self._sleep = qps, burst, clock, sleep
        self._full_at = clock()  # when the bucket would be full again
        self._lock = threading.Lock()

    def take(self) -> float:
        """Wait for one's turn; returns the seconds that this took."""
        with self._lock:
            now = self._clock()
            self._full_at = max(self._full_at, now) + 1 / self._qps
            wait = self._full_at - now - self._burst / self._qps
        if wait > 0:
            self._sleep(wait)
        return max(0.0, wait)
