"""Every error at every call: lets calls of the first GPU fail in each way, and says what came.

A program of its own, as ``play.py`` is. Reads ``{"script": TEXT, "calls": [...], "codes": [...]}``
from standard input, where several calls that fail together are joined by ``+``. For each pair it
prints what each sample lacked while they failed, and once they worked again; how often that was
counted, and what was told.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import fields
from typing import Any

from telemetry import nvml
from telemetry.collect import Collector, Tick
from telemetry.nvml import events
from telemetry.samples import GpuSample
from tests.telemetry.play import H100, NOON, Clock, write

events.WAIT_MILLISECONDS = 1
NAMES = tuple(field.name for field in fields(GpuSample))


def inject(script: str, calls: str, code: int) -> dict[str, Any]:
    """Calls that fail in one way for two ticks, and work again after a minute."""
    told: list[str] = []
    clock, causes = Clock(), nvml.Causes(told.append)
    driver = nvml.Driver(node="node-1", causes=causes, tensor_units=lambda: H100, clock=clock)
    collector = Collector(driver, clock=clock)
    write(script + "".join(f"\nfail {call} {code} 0" for call in calls.split("+")))
    try:
        collector.start()
    except nvml.NvmlUnavailableError as error:
        return {"ended": str(error)}
    try:
        collector.tick(NOON)
        if "Event" in calls:
            time.sleep(0.02)  # the thread that waits for events has to come to it
        during = _tick(collector, clock, 1.0)
        causes.flush()
        write(script)
        _tick(collector, clock, 31.0)
        after = _tick(collector, clock, 31.0)
    finally:
        collector.stop()
    return {
        "during": _lacking(during),
        "after": _lacking(after),
        "failure": during.failure,
        "unreadable": [gpu.reason for gpu in during.unreadable],
        "health": [sample.health for sample in during.samples],
        "counts": {call: count for (call, _), count in causes.counts.items()},
        "told": told,
    }


def _tick(collector: Collector, clock: Clock, seconds: float) -> Tick:
    clock.seconds += seconds
    return collector.tick(NOON)


def _lacking(tick: Tick) -> dict[str, list[str]]:
    """The fields that are None, by the GPU's UUID."""
    return {
        sample.uuid: [name for name in NAMES if getattr(sample, name) is None]
        for sample in tick.samples
    }


if __name__ == "__main__":
    plan = json.load(sys.stdin)
    found = [
        [calls, code, inject(plan["script"], calls, code)]
        for calls in plan["calls"]
        for code in plan["codes"]
    ]
    json.dump(found, sys.stdout)
