"""The collector stands still where it is asked to, and only there."""

from __future__ import annotations

import gc

import pytest

from planner.collector import kept, paused


def test_it_stands_still_inside_and_goes_on_after_an_error() -> None:
    was: list[bool] = []

    @paused()
    def fails() -> None:
        was.append(gc.isenabled())
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert (was, gc.isenabled()) == ([False], True)


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_kept_is_not_looked_through_until_the_end() -> None:
    value: list[object] = []
    with kept():
        assert all(each is not value for each in gc.get_objects())
    assert any(each is value for each in gc.get_objects())
