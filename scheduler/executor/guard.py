"""Runs a command and leaves a report of when it ran and how it ended.

Ray keeps a job's status in memory: when the head dies, it is gone. The report is a file, so a job
that finished just before is known to have finished and is not run twice. Its times are those of
the command itself, without the seconds that Ray takes to start it. Run as a script; standard
library only.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType


def command(report: Path, entrypoint: str) -> str:
    """The shell command that runs ``entrypoint`` and writes ``report``."""
    return shlex.join([sys.executable, "-I", "-S", __file__, str(report), entrypoint])


def main(report: Path, entrypoint: str) -> int:
    """Run ``entrypoint`` in a shell; its exit status (128 + signal where one ended it)."""
    began = time.time()
    # Ray sends the stop signal to the whole process group. A handler, unlike SIG_IGN, is not
    # inherited: the command gets the signal as usual, and we live to report how it ended.
    signal.signal(signal.SIGTERM, _ignore)
    child = subprocess.Popen(["/bin/sh", "-c", entrypoint])
    _write(report, {"start": began})
    code = child.wait()
    status = code if code >= 0 else 128 - code
    _write(report, {"start": began, "end": time.time(), "exitCode": status})
    return status


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    pass


def _write(report: Path, values: dict[str, float]) -> None:
    """Whole or not at all, and on the disk before the job is seen to end."""
    temporary = report.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as out:
        json.dump(values, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(report)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
