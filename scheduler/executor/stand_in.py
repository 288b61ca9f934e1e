"""A small program that runs in place of a planned job, so that a plan can be tried without GPUs.

It does arithmetic in short bursts for the given seconds, logs how many units of work that stands
for, and prints what it measured as JSON in its last line. It uses a twentieth of a core and
yields it: many stand-ins run beside each other on a laptop. Run as a script; standard library
only, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

BURST = 10_000  # multiply-adds, about half a millisecond
REST_SECONDS = 0.01
FLOPS_PER_BURST = 2 * BURST
REPORTS = 4  # progress lines before the last


def command(*, job: str, work: float, unit: str, seconds: float) -> str:
    """The shell command that stands in for ``job`` for so many real seconds."""
    script = [sys.executable, "-I", "-S", __file__, "--job", job]
    return shlex.join([*script, "--work", f"{work:g}", "--unit", unit, "--seconds", f"{seconds:g}"])


def burst(value: float) -> float:
    """``BURST`` dependent multiply-adds; converges to 2, so it neither overflows nor vanishes."""
    for _ in range(BURST):
        value = value * 0.5 + 1.0
    return value


class _StopError(Exception):
    """The scheduler ended the job."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise _StopError


def run(job: str, work: float, unit: str, seconds: float) -> int:
    """Work until ``seconds`` have passed or SIGTERM comes; the exit status."""
    begin, bursts, value, said = time.monotonic(), 0, 1.0, 0
    status = 0
    try:
        while (spent := time.monotonic() - begin) < seconds:
            value = burst(value)
            bursts += 1
            if spent >= seconds * (said + 1) / (REPORTS + 1):
                said += 1
                _say(f"{job}: {work * spent / seconds:g} of {work:g} {unit} done")
            time.sleep(REST_SECONDS)
    except _StopError:
        status = 128 + signal.SIGTERM
    spent = time.monotonic() - begin
    done = work * min(1.0, spent / seconds) if seconds > 0 else work
    measured = {"job": job, "work": done, "unit": unit, "seconds": round(spent, 6)}
    _say(json.dumps({**measured, "flops": bursts * FLOPS_PER_BURST, "standIn": True}))
    return status


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", required=True)
    parser.add_argument("--work", type=float, required=True)
    parser.add_argument("--unit", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    os.nice(10)
    return run(args.job, args.work, args.unit, args.seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
