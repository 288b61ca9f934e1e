"""The whole command as a user calls it, and small manifests to call it with."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from flopwise.__main__ import main

ROOT = Path(__file__).parents[2]
HOURS = "task: {gpus: 8, hours: {h100-sxm5-80gb: 4, a100-sxm4-80gb: 10}}"


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


Command = Callable[..., Ended]


def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line here: its start takes longer than most of its work."""

    def run(*arguments: object, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["flopwise", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
        assert isinstance(code, int)
        return Ended(code, *capsys.readouterr())

    return run


def on_its_own(*arguments: object, **environment: str) -> Ended:
    """Runs it in a process of its own, with nothing in the environment but what is named."""
    done = subprocess.run(
        [sys.executable, "-m", "flopwise", *map(str, arguments)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def manifest(kind: str, name: str, spec: str) -> str:
    """One document."""
    return f"""---
apiVersion: flopwise.dev/v1alpha1
kind: {kind}
metadata: {{name: {name}}}
spec: {{{spec}}}
"""


def pool(name: str, accelerator: str, usd: float, nodes: int = 1) -> str:
    """Nodes of eight GPUs, billed by GPU."""
    price = f"price: {{purchase: on_demand, usdPerGpuHour: {usd}, billing: gpu}}"
    return manifest(
        "GpuPool", name, f"accelerator: {accelerator}, gpusPerNode: 8, nodes: {nodes}, {price}"
    )


def job(name: str, more: str = "", work: str = HOURS) -> str:
    """Eight GPUs for 4 h on H100 or 10 h on A100, unless ``work`` says otherwise."""
    return manifest("GpuJob", name, f"{more}, {work}" if more else work)


def queue(name: str, spec: str) -> str:
    return manifest("GpuQueue", name, spec)


POOLS = pool("a100", "a100-sxm4-80gb", 2) + pool("h100", "h100-sxm5-80gb", 3.5, nodes=2)
"""A100 at $2 and two nodes of H100 at $3.50 a GPU-hour."""
