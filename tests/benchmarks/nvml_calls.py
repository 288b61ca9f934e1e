"""What each NVML call of the collector returns on this machine, and what it costs.

Made for a real GPU; ``--fake`` runs it over the fake driver of the tests. One line a call: how
often it was made in ``--ticks`` readings of all GPUs, its median and its longest time, how often it
failed and why, and what it last gave. Aim: no call with a median above 5 ms, for the collector has
one thread; ``nvmlDeviceGetPcieThroughput``, which it never makes, takes 20 ms by its own header.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from telemetry import nvml
from telemetry.nvml.asking import Asking
from tests.benchmarks.collector import fake_driver
from tests.benchmarks.measure import publish

AIM_MICROSECONDS = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=20)
    parser.add_argument("--fake", action="store_true", help="over the fake driver")
    asked = parser.parse_args()
    if asked.fake and "FAKE_NVML_STATE" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            _begin_anew(fake_driver(Path(folder)))
    calls = _calls(asked.ticks)
    for call in calls:
        print(
            f"{call['call']:45} {call['times']:>5} x {call['medianMicroseconds']:>9,.1f} us, most "
            f"{call['mostMicroseconds']:>9,.1f} us  {call['gave']}  {call['why']}"
        )
    slowest = max(calls, key=lambda call: call["medianMicroseconds"])
    total = sum(call["times"] * call["medianMicroseconds"] for call in calls) / asked.ticks
    row = {
        "calls": len(calls),
        "slowest": slowest["call"],
        "medianMicroseconds": slowest["medianMicroseconds"],
        "aimMicroseconds": AIM_MICROSECONDS,
        "allCallsOfATickMicroseconds": total,
    }
    publish("nvml_calls", [row], details=calls)


def _begin_anew(driver: dict[str, str]) -> None:
    """The loader reads LD_LIBRARY_PATH only at the start of a process."""
    words = [sys.executable, "-m", "tests.benchmarks.nvml_calls", *sys.argv[1:]]
    sys.exit(os.spawnve(os.P_WAIT, sys.executable, words, os.environ | driver))


def _calls(ticks: int) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = defaultdict(list)
    last: dict[str, Any] = {}
    ask = Asking.ask

    def timed(self: Asking, call: str, where: str, function: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = ask(self, call, where, function)
        seconds[call].append(time.perf_counter() - began)
        last[call] = found if found is not None else last.get(call)
        return found

    Asking.ask = timed  # type: ignore[method-assign]  # what is measured
    causes = nvml.Causes(print)
    driver = nvml.Driver(node="here", causes=causes, slow_seconds=0.0)
    driver.open()
    for _ in range(ticks):
        driver.read(datetime.now(UTC))
        time.sleep(0.12)
    driver.close()
    return [
        {
            "call": call,
            "times": len(spent),
            "medianMicroseconds": round(median(spent) * 1e6, 1),
            "mostMicroseconds": round(max(spent) * 1e6, 1),
            "failed": sum(n for (name, _), n in causes.counts.items() if name == call),
            "why": ", ".join(sorted({why for name, why in causes.counts if name == call})),
            "gave": _short(last[call]),
        }
        for call, spent in sorted(seconds.items())
    ]


def _short(value: Any) -> str:
    """A struct by its fields, all else as it prints; one line."""
    fields = getattr(value, "_fields_", None)
    if fields:
        value = ", ".join(f"{field[0]}={getattr(value, field[0])}" for field in fields)
    return str(value).replace("\n", " ")[:60]


if __name__ == "__main__":
    main()
