"""Plays a script to the fake driver, step by step, and prints what the collector made of it.

A program of its own, for the loader reads LD_LIBRARY_PATH once, at the start of a process. Reads
JSON from standard input: ``{"steps": [{"script": TEXT, "advance": SECONDS, "sleep": SECONDS}]}``.
``bus`` of a step adds GPUs, by address, to what the driver shows of its bus.
Each step writes the script that FAKE_NVML_STATE names, moves the collector's clock, sleeps in
truth (the driver has a clock of its own), and takes one tick. Beside ``steps`` it takes
``attempts`` and ``budget_seconds``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from telemetry import nvml, samples
from telemetry.collect import Collector, Tick

NOON = datetime.fromisoformat("2026-12-01T12:00:00+00:00")
H100 = {"NVIDIA H100 80GB HBM3": nvml.TensorUnits(sms=132, flops_per_clock=4096.0)}


class Clock:
    """Moved by the steps alone."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def play(plan: dict[str, Any]) -> dict[str, Any]:
    """What the collector gave at each step, what it told, and what it counted."""
    told: list[str] = []
    clock = Clock()
    causes = nvml.Causes(told.append)
    driver = nvml.Driver(
        node="node-1", causes=causes, tensor_units=lambda: H100, clock=clock, bus=_bus()
    )
    collector = Collector(
        driver,
        clock=clock,
        attempts=plan.get("attempts", 3),
        budget_seconds=plan.get("budget_seconds", float("inf")),
    )
    result: dict[str, Any] = {"ticks": [], "ended": None}
    try:
        _prepare(plan["steps"][0])
        collector.start()
        for step in plan["steps"]:
            _prepare(step)
            clock.seconds += step.get("advance", 0.0)
            time.sleep(step.get("sleep", 0.0))
            now = NOON + timedelta(seconds=clock.seconds - 1000)
            result["ticks"].append(_as_json(collector.tick(now)))
            causes.flush()
        collector.stop()
    except (nvml.NvmlUnavailableError, nvml.DriverLostError) as error:
        result["ended"] = f"{type(error).__name__}: {error}"
    counts = [[call, cause, count] for (call, cause), count in causes.counts.items()]
    return result | {"told": told, "counts": counts}


def _bus() -> Path:
    return Path(os.environ["FAKE_NVML_STATE"]).with_name("bus")


def _prepare(step: dict[str, Any]) -> None:
    for address in step.get("bus", ()):
        (_bus() / address).mkdir(parents=True, exist_ok=True)
    if "script" in step:
        write(step["script"])


def write(script: str) -> None:
    """Makes it the fake driver's script, at once as a whole."""
    path = Path(os.environ["FAKE_NVML_STATE"])
    fresh = path.with_suffix(".new")
    fresh.write_text(script)
    fresh.replace(path)


def _as_json(tick: Tick) -> dict[str, Any]:
    return {
        "samples": [samples.to_line(sample) for sample in tick.samples],
        "unreadable": [[gpu.index, gpu.reason] for gpu in tick.unreadable],
        "failure": tick.failure,
    }


if __name__ == "__main__":
    json.dump(play(json.load(sys.stdin)), sys.stdout)
