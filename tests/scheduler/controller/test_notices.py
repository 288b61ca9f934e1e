"""How long ago a stop was announced."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from scheduler.controller.notices import Notices

TOLD = datetime(2026, 12, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_wall_clock_that_is_set_ends_no_notice_early_and_makes_none_longer() -> None:
    clock = Clock()
    notices = Notices(clock)
    assert notices.waited_seconds("a", TOLD, TOLD) == 0.0
    clock.seconds += 10.0
    assert notices.waited_seconds("a", TOLD, TOLD + HOUR) == 10.0
    clock.seconds += 10.0
    assert notices.waited_seconds("a", TOLD, TOLD - HOUR) == 20.0


def test_who_has_just_started_goes_by_what_is_written() -> None:
    # Told 25 s ago by whoever was before; of a clock that is behind, it is as if just told.
    clock = Clock()
    assert Notices(clock).waited_seconds("a", TOLD, TOLD + timedelta(seconds=25)) == 25.0
    assert Notices(clock).waited_seconds("a", TOLD, TOLD - HOUR) == 0.0


def test_another_notice_counts_from_its_own_beginning() -> None:
    clock = Clock()
    notices = Notices(clock)
    notices.waited_seconds("a", TOLD, TOLD)
    clock.seconds += 60.0
    assert notices.waited_seconds("a", TOLD + HOUR, TOLD + HOUR) == 0.0
    notices.waited_seconds("b", TOLD, TOLD)
    clock.seconds += 5.0
    notices.keep({"b"})
    assert notices.waited_seconds("b", TOLD, TOLD) == 5.0
    assert notices.waited_seconds("a", TOLD + HOUR, TOLD + HOUR) == 0.0  # it was forgotten
