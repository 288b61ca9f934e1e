"""A writer that is killed at random moments: `python kill_the_writer.py STORE KILLS SEED`.

Each child goes on where the store ends and appends ticks as fast as it can: time is compressed, so
that a kill falls into a write, a commit, a trim or a checkpoint, not into a pause. Before and after
a tick the child says so in memory that its parent shares. After each kill the parent opens the
store and writes, as a line of JSON: the last tick begun, the last one done, the last one there.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sqlite3
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from telemetry.samples import GpuSample
from telemetry.store import Ring, from_us
from telemetry.uses import Use

START = datetime(2026, 12, 1, tzinfo=UTC)
GPUS = 4
MOST_TICKS = 15  # of a child, before the one that it is killed in


def tick(number: int) -> list[Use]:
    return [
        Use(
            sample=GpuSample(
                time=START + timedelta(seconds=number),
                node="node-1",
                uuid=f"GPU-{gpu}",
                name="NVIDIA L4",
                energy_joules=float(number),
                throttle_reasons=("power_cap",) * 20,
            )
        )
        for gpu in range(GPUS)
    ]


def write(path: Path, first: int, said: mmap.mmap) -> None:
    with Ring(path, keep=timedelta(seconds=400), keep_bytes=2**20) as ring:
        number = first
        while True:
            said[:8] = number.to_bytes(8, "little", signed=True)
            ring.append(tick(number))
            said[8:] = number.to_bytes(8, "little", signed=True)
            number += 1


def found(path: Path) -> tuple[int, bool]:
    """The last tick of the store, and whether all that is there is whole."""
    with Ring(path):
        pass  # as the collector opens it when it starts again
    file = sqlite3.connect(path)
    (sound,) = file.execute("PRAGMA integrity_check").fetchone()
    torn = file.execute("SELECT 1 FROM uses GROUP BY time_us HAVING count(*) <> ?", (GPUS,))
    ticks, first, last = file.execute(
        "SELECT count(DISTINCT time_us), min(time_us), max(time_us) FROM uses"
    ).fetchone()
    whole = sound == "ok" and torn.fetchone() is None
    file.close()
    if not ticks:
        return -1, whole
    first, last = ((from_us(at) - START) // timedelta(seconds=1) for at in (first, last))
    return last, whole and ticks == last - first + 1


def main(path: Path, kills: int, seed: int) -> None:
    drawn = random.Random(seed)
    said = mmap.mmap(-1, 16)
    there = -1
    for _ in range(kills):
        said[:] = there.to_bytes(8, "little", signed=True) * 2
        child = os.fork()
        if not child:
            write(path, there + 1, said)
        # So many ticks, however slow the machine, and at any moment of the next.
        least = there + drawn.randrange(MOST_TICKS)
        while int.from_bytes(said[:8], "little", signed=True) < least:
            if os.waitpid(child, os.WNOHANG)[0]:
                sys.exit("the writer has ended by itself")
            time.sleep(0.0005)
        time.sleep(drawn.uniform(0, 0.005))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        begun, done = (int.from_bytes(part, "little", signed=True) for part in (said[:8], said[8:]))
        there, whole = found(path)
        told = {"begun": begun, "done": done, "there": there, "whole": whole}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()  # or the next child writes it too


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
