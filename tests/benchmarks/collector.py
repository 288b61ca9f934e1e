"""What the collector costs on a node of 8 GPUs: processor, memory, time to its first sample.

It is ``flopwise telemetry collect`` and ``serve`` as they are called, at 1 s, over the fake driver
of the tests (its own time counts too), every GPU with two processes and GPM; ``serve`` is scraped
every 15 s. The share of a core is of the processor time of all threads, from the fifth second on:
starting is not in it. Linux only.
Aims: 1 % of a core, 60 MiB, 1 s to the first sample; where other work keeps the machine busy, the
last is by the clock, and the processor time until then stands beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.benchmarks.measure import FLOPWISE, ROOT, publish

GPUS = 8
WARM_UP_SECONDS = 4.0
SCRAPE_SECONDS = 15.0  # as Prometheus does
PORT = 19402
AIM_CORE_FRACTION, AIM_MIB, AIM_SECONDS = 0.01, 60, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long each run is")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        driver = fake_driver(Path(folder))
        rows = [_row(*way, driver, asked.seconds) for way in _ways(Path(folder))]
    publish("collector", rows)


def _ways(folder: Path) -> list[tuple[str, Path, list[str]]]:
    """What is handed the samples; the file they come to; the words after `flopwise telemetry`."""
    lines, ring, served = folder / "samples.jsonl", folder / "ring.db", folder / "served.db"
    nobody = str(folder / "no-kubelet.sock")
    return [
        ("JSON lines", lines, ["collect", "--out", str(lines)]),
        ("store", ring, ["collect", "--store", str(ring)]),
        (
            "store, exporter",
            served,
            ["serve", f"--port={PORT}", "--store", str(served), "--kubelet-socket", nobody],
        ),
    ]


def _row(
    what: str, out: Path, words: list[str], driver: dict[str, str], seconds: int
) -> dict[str, object]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [*FLOPWISE, "telemetry", *words, "--duration", f"{seconds}s"],
        cwd=ROOT,
        env=os.environ | driver,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not _has_samples(out):
        time.sleep(0.002)
    first, first_cpu = time.perf_counter() - began, _cpu_seconds(process.pid)
    time.sleep(WARM_UP_SECONDS)
    from_time, from_cpu = time.perf_counter(), _cpu_seconds(process.pid)
    while (left := began + seconds - 1 - time.perf_counter()) > 0:
        time.sleep(min(left, SCRAPE_SECONDS))
        if words[0] == "serve":
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5).read()
    share = (_cpu_seconds(process.pid) - from_cpu) / (time.perf_counter() - from_time)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(process.stderr.read().decode() if process.stderr else "it failed")
    return {
        "sinks": what,
        "gpus": GPUS,
        "seconds": seconds,
        "coreFraction": share,
        "aimCoreFraction": AIM_CORE_FRACTION,
        "peakMib": used.ru_maxrss / 1024,
        "aimMib": AIM_MIB,
        "firstSampleSeconds": first,
        "firstSampleCpuSeconds": first_cpu,
        "aimFirstSampleSeconds": AIM_SECONDS,
    }


def _has_samples(out: Path) -> bool:
    """Whether the first tick is written: of the store, its log of what is not merged yet."""
    log = out.with_name(out.name + "-wal")
    if out.suffix == ".jsonl":
        return out.exists() and out.stat().st_size > 0
    if not log.exists() or not log.stat().st_size:
        return False
    with sqlite3.connect(f"file:{out}?mode=ro", uri=True) as file:
        try:
            return bool(file.execute("SELECT count(*) FROM uses").fetchone()[0])
        except sqlite3.OperationalError:
            return False


def _cpu_seconds(pid: int) -> float:
    """Of all threads; the kernel counts in ns here, in 10 ms elsewhere."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def fake_driver(folder: Path) -> dict[str, str]:
    """The fake driver, compiled as the tests compile it, and its script."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        sys.exit("no C compiler for the fake driver: apt install gcc libc6-dev")
    library, script = folder / "libnvidia-ml.so.1", folder / "state"
    source = ROOT / "tests" / "telemetry" / "fake_nvml" / "fake_nvml.c"
    flags = ["-std=c11", "-O2", "-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
    subprocess.run([compiler, *flags, "-o", library, source], check=True)
    script.write_text(f"gpus {GPUS}\nlive\n")
    return {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML_STATE": str(script)}


if __name__ == "__main__":
    main()
