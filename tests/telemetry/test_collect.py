"""The collector over the fake driver: errors that are told, a driver that goes away, time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from telemetry import nvml
from telemetry.collect import Collector, Tick, run
from telemetry.samples import GpuSample, Health

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
ONE = "gpus 1\n"


def step(script: str, advance: float = 1.0, sleep: float = 0.0) -> dict[str, Any]:
    return {"script": script, "advance": advance, "sleep": sleep}


def heard(script: str) -> dict[str, Any]:
    """A step that begins when the thread that waits for events has had its time."""
    return step(script, sleep=0.3)


def verdicts(played: Any) -> list[tuple[int | None, Health | None]]:
    return [(tick[0].last_xid, tick[0].health) for tick in played.ticks]


def test_an_xid_is_heard_by_the_next_tick_and_holds_until_the_gpu_is_reset(play: Any) -> None:
    xid = ONE + "event 1 0 0x8 79\n"
    # A reset: the counter of energy, 1,234,500 mJ before, begins anew.
    after_reset = xid + "field 0 83 500\n"
    found = play(step(ONE), heard(xid), step(xid, 7200), step(after_reset))
    assert verdicts(found) == [
        (None, Health.FINE),
        (79, Health.CORDON),
        (79, Health.CORDON),
        (None, Health.FINE),
    ]
    assert found.ticks[1][0].health_reason == "Xid 79: GPU has fallen off the bus (restart_node)"


def test_of_several_xids_the_last_is_named_and_the_gravest_judges(play: Any) -> None:
    found = play(step(ONE), heard(ONE + "event 1 0 0x8 95\nevent 2 0 0x8 13\n"))
    assert verdicts(found)[-1] == (13, Health.CORDON)


def test_an_event_of_one_gpu_is_no_other_gpus(play: Any) -> None:
    found = play(step("gpus 2\n"), heard("gpus 2\nevent 1 1 0x8 48\n"))
    assert [sample.health for sample in found.ticks[-1]] == [Health.FINE, Health.CORDON]


def test_an_instance_has_the_health_of_its_gpu(play: Any) -> None:
    script = "gpus 1\ngpu 0 mig 1\ninstance 0 0 MIG-a 1g.10gb 7 16 1000 10000\n"
    found = play(step(script), heard(script + "event 1 0 0x8 64\n"))
    assert [sample.health for sample in found.ticks[-1]] == [Health.CORDON, Health.CORDON]


def test_a_recovery_action_that_changes_is_read_at_once(play: Any) -> None:
    # Its own tier comes once in 30 s; the event brings it forward, to the tick after.
    resets = ONE + "field 0 230 1\n"
    found = play(step(ONE), step(resets), heard(resets + "event 1 0 0x8000 1\n"), step(resets))
    actions = [tick[0].recovery_action for tick in found.ticks]
    assert actions == ["none", "none", "none", "gpu_reset"]
    assert found.last().health_reason == "the driver asks for gpu_reset"


def test_a_gpu_that_the_driver_calls_unavailable_is_cordoned(play: Any) -> None:
    found = play(step(ONE), heard(ONE + "event 1 0 0x4000 0\n"))
    assert found.last().health_reason == "the driver says that it is unavailable"


def test_a_monitor_that_dies_is_seen_and_replaced(play: Any) -> None:
    dies = ONE + "fail nvmlEventSetWait_v2 999\n"
    found = play(step(ONE), step(dies, sleep=1.5), step(ONE, 31), step(ONE))
    assert [sample[0].health for sample in found.ticks] == [
        Health.FINE,
        Health.WATCH,
        Health.FINE,
        Health.FINE,
    ]
    assert found.ticks[1][0].health_reason == "its errors are not heard: Unknown Error"
    assert "node-1: nvmlEventSetWait: Unknown Error" in found.told


LOST = ONE + "gpu 0 dying 1\n"


def test_a_driver_that_is_lost_is_opened_anew_after_ever_longer_waits(play: Any) -> None:
    # Lost at once; tried again 1 s later, 2 s after that, and then it is back.
    found = play(
        *(step(ONE), step(LOST), step(LOST, 0.5), step(LOST, 0.5)),
        *(step(ONE, 1.0), step(ONE, 1.0), step(ONE)),
        attempts=5,
    )
    gone = "GPU is lost"
    assert found.failures == (None, gone, gone, gone, gone, None, None)
    assert [len(tick) for tick in found.ticks] == [1, 0, 0, 0, 0, 1, 1]


def test_a_driver_that_does_not_come_back_ends_it(play: Any) -> None:
    found = play(step(ONE), *(step(LOST, 60) for _ in range(5)), attempts=3)
    assert found.ended == "DriverLostError: the NVIDIA driver was lost, 3 attempts: GPU is lost"
    assert len(found.ticks) == 4  # one that was well, three that were not


def test_a_reload_while_initialisation_fails_is_waited_for(play: Any) -> None:
    reloading = ONE + "fail nvmlInitWithFlags 9\nfail nvmlDeviceGetCount_v2 1\n"
    found = play(step(ONE), step(reloading, 31), step(reloading, 2), step(ONE, 4))
    assert [bool(tick) for tick in found.ticks] == [True, False, False, True]
    assert found.failures[2] == (
        "the NVIDIA driver does not answer (Driver Not Loaded): `nvidia-smi` shows what it needs"
    )


def test_a_pass_over_its_budget_leaves_out_what_can_wait(play: Any) -> None:
    # With no time at all, the fast figures are read, the rest is left out and counted.
    found = play(step("gpus 2\n"), budget_seconds=0.0)
    first, _ = found.ticks[0]
    assert first.power_watts == 430.0
    assert (first.processes, first.power_limit_watts) == (None, None)
    late = "left out: the tick was over its budget"
    assert {call for call, cause in found.counts if cause == late} == {"processes", "GPM", "slow"}


class Silent:
    """A driver with one GPU, and nothing to say of it."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    def read(self, now: datetime, budget_seconds: float) -> nvml.Reading:
        one = GpuSample(time=now, node="n", uuid="GPU-1", name="NVIDIA L4")
        return nvml.Reading(samples=(one,))


def three() -> Iterator[None]:
    yield from (None, None, None)


def ran(*sinks: Any) -> tuple[int, list[str], dict[tuple[str, str], int]]:
    told: list[str] = []
    causes = nvml.Causes(told.append)
    driver: Any = Silent()
    count = run(Collector(driver), three(), sinks, causes, now=lambda: NOON)
    return count, told, dict(causes.counts)


def test_a_sink_that_fails_later_is_counted_and_told_once_and_stops_nobody() -> None:
    taken: list[Tick] = []

    def disk(tick: Tick) -> None:
        if taken:
            raise OSError(28, "No space left on device")

    count, told, counts = ran(disk, taken.append)
    assert (count, len(taken)) == (3, 3)
    assert counts == {("sink", "OSError: [Errno 28] No space left on device"): 2}
    assert len(told) == 1


def test_a_sink_that_fails_at_first_ends_the_run() -> None:
    def nowhere(tick: Tick) -> None:
        raise OSError(2, "No such file or directory")

    with pytest.raises(OSError, match="No such file"):
        ran(nowhere)
