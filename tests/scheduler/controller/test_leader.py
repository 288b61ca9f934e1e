"""Who acts: one at a time, whatever the API server does."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.controller.leader import Leader, Terms
from scheduler.kube import names
from scheduler.kube.errors import Conflict, NotFound, Unreachable
from scheduler.kube.names import Resource

TERMS = Terms(lease_seconds=15, renew_seconds=10, retry_seconds=2)


class Leases:
    """An API server that has Leases: the part of `scheduler.kube.api.Api` that is used."""

    namespace = "default"

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.down = False
        self.version = 0

    def get(self, resource: Resource, name: str, namespace: str = "") -> Any:
        self._answer()
        if name not in self.kept:
            raise NotFound(name)
        return copy.deepcopy(self.kept[name])

    def create(self, resource: Resource, manifest: Any, *, dry_run: bool = False) -> Any:
        self._answer()
        if manifest["metadata"]["name"] in self.kept:
            raise Conflict("it is there")
        return self._keep(manifest)

    def replace(self, resource: Resource, manifest: Any) -> Any:
        self._answer()
        there = self.kept[manifest["metadata"]["name"]]["metadata"]["resourceVersion"]
        if manifest["metadata"]["resourceVersion"] != there:
            raise Conflict("somebody was faster")
        return self._keep(manifest)

    def _keep(self, manifest: Any) -> Any:
        self.version += 1
        made = copy.deepcopy(manifest)
        made["metadata"]["resourceVersion"] = str(self.version)
        self.kept[made["metadata"]["name"]] = made
        return copy.deepcopy(made)

    def _answer(self) -> None:
        if self.down:
            raise Unreachable("refused")


class Time:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def candidate(api: Leases, clock: Time, identity: str) -> Leader:
    return Leader(
        api,  # type: ignore[arg-type]  # the part of it that is used
        name="flopwise",
        namespace="ns",
        identity=identity,
        terms=TERMS,
        clock=clock,
    )


def test_the_first_one_acts_and_the_second_does_not_as_long_as_it_renews() -> None:
    api, clock = Leases(), Time()
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    assert a.attempt()
    for _ in range(20):
        clock.seconds += 2
        assert a.attempt()
        assert not b.attempt()
        assert (a.is_leader(), b.is_leader()) == (True, False)
    assert api.kept["flopwise"]["spec"]["leaseTransitions"] == 0


def test_who_cannot_renew_stops_before_the_next_one_may_take_over() -> None:
    api, clock = Leases(), Time()
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    a.attempt()
    b.attempt()  # sees a's write at 0 s
    api.down = True
    clock.seconds = 9.9
    a.attempt()
    assert a.is_leader()
    clock.seconds = 10.0  # renew_seconds after its last write
    assert not a.is_leader()
    api.down = False
    clock.seconds = 15.0
    assert not b.attempt()
    clock.seconds = 15.1  # more than lease_seconds after what b has seen
    assert b.attempt()
    assert not a.attempt()
    assert api.kept["flopwise"]["spec"]["leaseTransitions"] == 1


def test_a_lease_that_is_given_up_is_taken_at_once() -> None:
    api, clock = Leases(), Time()
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    a.attempt()
    a.stop()
    assert not a.is_leader()
    assert b.attempt()


def test_a_lease_that_is_deleted_is_made_anew_by_its_holder_and_by_no_other_in_its_time() -> None:
    api, clock = Leases(), Time()
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    a.attempt()
    b.attempt()  # sees a's write at 0 s
    del api.kept["flopwise"]
    clock.seconds = 1.0
    assert not b.attempt()  # a acts until 10 s, and knows nothing of it yet
    assert a.attempt()
    assert not b.attempt()
    del api.kept["flopwise"]
    clock.seconds = 16.1  # a is gone too: more than 15 s after its last write that b has seen
    assert b.attempt()


def test_a_wall_clock_that_jumps_and_a_renew_time_that_is_none_change_nothing() -> None:
    # What counts is when a candidate saw a change, by a clock that does not jump.
    api, clock = Leases(), Time()
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    for number, hours in enumerate((0, 1, -1, 0)):
        wall = datetime(2026, 12, 1, 12 + hours, number, tzinfo=UTC)
        a._now = lambda wall=wall: wall  # type: ignore[misc]  # bound as it is now
        clock.seconds += 2
        assert a.attempt()
        assert not b.attempt()
        assert (a.is_leader(), b.is_leader()) == (True, False)
    spec = api.kept["flopwise"]["spec"]
    spec |= {"renewTime": "yesterday", "acquireTime": None, "leaseTransitions": None}
    assert not b.attempt()
    clock.seconds += 15.1
    assert b.attempt()


def test_of_two_who_find_it_free_the_slower_one_does_not_get_it() -> None:
    api, clock = Leases(), Time()
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    a.attempt()
    clock.seconds = 100.0
    b.attempt()  # sees it for the first time
    clock.seconds = 200.0
    read = api.get

    def faster(*asked: Any) -> Any:
        found = read(*asked)
        api.replace(names.LEASES, found)  # somebody writes between get and put
        return found

    api.get = faster  # type: ignore[method-assign,assignment]  # for this test only
    assert not b.attempt()
    assert not b.is_leader()


def test_terms_that_would_let_two_act_are_refused() -> None:
    with pytest.raises(ValueError, match="found lease 10 s, renew 10 s"):
        Terms(lease_seconds=10, renew_seconds=10, retry_seconds=2)
