"""What the benchmarks share: time and memory of a command, and a table that is kept as JSON too."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "out" / "benchmarks"
FLOPWISE = (sys.executable, "-m", "flopwise")

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A command that ended well."""

    seconds: float
    peak_mib: float
    out: str


def measured(*command: object) -> Measured:
    """Run a command in the repository. Raises RuntimeError with what it said where it fails."""
    words = list(map(str, command))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=err)
        _, status, used = os.wait4(process.pid, 0)  # the only call that tells one child's memory
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            err.seek(0)
            raise RuntimeError(f"{' '.join(words)}: {err.read().decode()}")
        out.seek(0)
        peak_bytes = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Measured(seconds=seconds, peak_mib=peak_bytes / 2**20, out=out.read().decode())


def publish(
    name: str, rows: Sequence[Row], *, seed: int | None = None, details: Sequence[Row] = ()
) -> None:
    """Print the rows as a table, and write them with what they were measured on.

    ``details`` are written too, but not printed: the runs that the rows are means of.
    """
    document = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version(), "ortools": version("ortools")},
        "seed": seed,
        "rows": list(rows),
        **({"details": list(details)} if details else {}),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(_table(rows))
    print(f"\n{path.relative_to(ROOT)}")


def machine() -> dict[str, object]:
    """The processor, its cores, the memory, and how busy it is with other work."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memoryGib": round(pages * page_bytes / 2**30, 1),
        "system": platform.system(),
        "loadAverage": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _table(rows: Sequence[Row]) -> str:
    """A line for each field, a column for each row: there are few rows of many fields."""
    lines = [[field, *(_cell(row[field]) for row in rows)] for field in rows[0]]
    first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]) for line in lines
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f}" if isinstance(value, float) else str(value)
