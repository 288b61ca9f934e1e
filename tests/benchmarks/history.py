"""The history at 10,000 GPUs: a day's rows in, its hourly sums, usage of a month by team and job.

A day of one-minute rows of 1,250 nodes of 8 GPUs (14.4 million, drawn with a seed; one of 500 jobs
has a GPU for four hours) is imported from Parquet files of 100 nodes each. Then the day is summed
up by hour, and the sums are copied to 30 days, which are asked for usage by team and job. Each step
is a process of its own: its memory is that of all it loads. Processor seconds are of both cores.

Aims: 300,000 rows/s in; a day's sums in 5 s and 1 GiB; usage of 30 days in 1 s.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from telemetry.history import hourly, importing, raw
from telemetry.history.place import Place, place
from tests.benchmarks.measure import measured, publish

SEED = 0
GPUS, MINUTES, BATCH = 8, 1440, 100
DAY = date(2026, 12, 1)
DAY_US = 86_400_000_000
START_US = 1_796_083_200_000_000  # its midnight
OWNED_MINUTES = 240
DAYS = 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="history", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1250)
    parser.add_argument("--step", choices=list(STEPS), help="one alone, in --folder")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.step:
        print(json.dumps(STEPS[asked.step](asked.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = make(folder, asked.nodes)
        publish("history", [row(step, folder, rows) for step in STEPS], seed=SEED)


def row(step: str, folder: Path, rows: int) -> dict[str, object]:
    """What a step took; the seconds are of its work, without its start."""
    module = ("-m", "tests.benchmarks.history", "--step", step, "--folder", folder)
    run = measured(sys.executable, *module)
    seconds, cpu_seconds, out_rows = json.loads(run.out)
    return {
        "step": step,
        "seconds": seconds,
        "processorSeconds": cpu_seconds,
        "inRows": rows if step != "usage" else None,
        "rowsPerSecond": round(rows / seconds) if step != "usage" else None,
        "outRows": out_rows,
        "peakMib": round(run.peak_mib),
    }


def make(folder: Path, nodes: int) -> int:
    """Files of what others' exporters would tell; how many rows."""
    (folder / "in").mkdir()
    drawn = np.random.default_rng(SEED)
    for first in range(0, nodes, BATCH):
        numbers = range(first, min(nodes, first + BATCH))
        rows = pa.concat_tables([node(number, drawn) for number in numbers])
        pq.write_table(rows, folder / "in" / f"{first:05}.parquet", compression="zstd")
    return nodes * GPUS * MINUTES


def node(number: int, drawn: np.random.Generator) -> pa.Table:
    count = GPUS * MINUTES
    gpu = np.repeat(np.arange(GPUS), MINUTES)
    minute = np.tile(np.arange(1, MINUTES + 1), GPUS)
    owners = MINUTES // OWNED_MINUTES * GPUS
    job = np.repeat(drawn.integers(0, 500, owners), OWNED_MINUTES)
    utilisation = drawn.integers(0, 101, count) / 100
    watts = np.round(70 + 630 * utilisation, 1)
    return pa.table(
        {
            "time": pa.array(START_US + minute * 60_000_000, pa.timestamp("us", tz="UTC")),
            "node": texts(np.zeros(count), [f"node-{number:05}"]),
            "uuid": texts(
                gpu, [f"GPU-{number:05}-{n}-0000-0000-000000000000" for n in range(GPUS)]
            ),
            "name": texts(np.zeros(count), ["NVIDIA H100 80GB HBM3"]),
            "namespace": texts(job % 20, [f"team-{team}" for team in range(20)]),
            "pod": texts(job, [f"job-{one}-0" for one in range(500)]),
            "job": texts(job, [f"job-{one}" for one in range(500)]),
            "team": texts(job % 20, [f"team-{team}" for team in range(20)]),
            "utilisation_fraction": utilisation,
            "tensor_active_fraction": np.round(utilisation * 0.6, 3),
            "tensor_tflops": np.round(utilisation * 400, 1),
            "memory_used_bytes": drawn.integers(0, 80, count) * 2**30,
            "power_watts": watts,
            "energy_joules": np.cumsum(watts.reshape(GPUS, MINUTES) * 60, axis=1).ravel(),
            "temperature_celsius": np.round(30 + 50 * utilisation),
            "sm_clock_mhz": np.full(count, 1980),
        }
    )


def texts(codes: np.ndarray, of: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(of))


def history(folder: Path) -> Place:
    return place(str(folder / "history"))


def timed(work: Callable[[], int]) -> tuple[float, float, int]:
    began, cpu = time.perf_counter(), time.process_time()
    rows = work()
    return time.perf_counter() - began, time.process_time() - cpu, rows


def ingest(folder: Path) -> tuple[float, float, int]:
    def work() -> int:
        return sum(
            raw.add(history(folder), table)
            for path in sorted((folder / "in").iterdir())
            for table in importing.tables(path)
        )

    return timed(work)


def roll_up(folder: Path) -> tuple[float, float, int]:
    took = timed(lambda: len(hourly.roll_up(history(folder))))
    sums = pq.read_metadata(folder / "history" / hourly.path_of(DAY))
    return *took[:2], sums.num_rows


def usage(folder: Path) -> tuple[float, float, int]:
    for path, table in copies(folder):
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, compression="zstd", compression_level=1)
    return timed(lambda: len(hourly.usage(history(folder), by=["team", "job"])))


def copies(folder: Path) -> Iterator[tuple[Path, pa.Table]]:
    first = pq.read_table(folder / "history" / hourly.path_of(DAY))
    at = first.schema.get_field_index("hour_us")
    for number in range(1, DAYS):
        hours = pa.array(first["hour_us"].to_numpy() + number * DAY_US)
        day = DAY + timedelta(days=number)
        yield folder / "history" / hourly.path_of(day), first.set_column(at, "hour_us", hours)


STEPS = {"ingest": ingest, "roll_up": roll_up, "usage": usage}


if __name__ == "__main__":
    main()
