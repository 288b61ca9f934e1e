"""What is asked of an API server is bounded."""

from __future__ import annotations

import pytest

from scheduler.kube.bucket import Bucket


def test_a_bucket_lets_a_burst_through_and_then_so_many_a_second() -> None:
    now = [100.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 9))
        now[0] += seconds

    bucket = Bucket(10, 3, clock=lambda: now[0], sleep=sleep)
    for _ in range(5):
        bucket.take()
    assert slept == [0.1, 0.1]  # three at once, then one each tenth of a second
    now[0] += 10  # full again, and no more than full
    assert [round(bucket.take(), 9) for _ in range(4)] == [0.0, 0.0, 0.0, 0.1]
    with pytest.raises(ValueError, match="above 0"):
        Bucket(0, 1)
