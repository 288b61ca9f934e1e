"""A cluster for a developer to play in: ``scripts/cluster up wide``, ``scripts/cluster down``.

``up`` starts a process that holds the cluster, and returns when the cluster is ready. That process
is the parent of all others: whatever ends it takes the cluster down. ``down`` asks it to end.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.cluster import build, deep, image
from tests.cluster.build import CannotBuild, cache_folder, to_standard_error
from tests.cluster.cluster import WIDE, Cluster

KINDS = {"wide": (Cluster, WIDE), "deep": (deep.Deep, deep.DEEP)}
ACCELERATORS = ("h100-sxm5-80gb", "a100-sxm4-80gb", "l40s")  # a third of the nodes each


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="scripts/cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster and say where its kubeconfig is")
    hold = commands.add_parser("hold", help=argparse.SUPPRESS)
    for command in (up, hold):
        command.add_argument("kind", choices=sorted(KINDS))
        command.add_argument("--nodes", type=int, default=24, help="GPU nodes (24)")
    down = commands.add_parser("down", help="take it down")
    for command in (up, hold, down):
        default = cache_folder() / "play"
        command.add_argument("--at", type=Path, default=default, help="where its kubeconfig lies")
    asked = parser.parse_args(arguments)
    asked.at.mkdir(parents=True, exist_ok=True)
    try:
        if asked.command == "up":
            return _up(asked.at, asked.kind, asked.nodes)
        if asked.command == "hold":
            return _hold(asked.at, asked.kind, asked.nodes)
        return _down(asked.at)
    except CannotBuild as why:
        to_standard_error(f"error: {why}")
        return 1


def _holder(at: Path) -> int:
    """The process id of who holds a cluster; 0 where nobody does."""
    with (at / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int((at / "pid").read_text())
    return 0


def _up(at: Path, kind: str, nodes: int) -> int:
    if _holder(at):
        to_standard_error("error: a cluster is up already: scripts/cluster down")
        return 1
    _prepare(kind)
    ready = at / "kubeconfig"
    ready.unlink(missing_ok=True)
    with (at / "log").open("w") as log:
        command = [
            sys.executable,
            "-m",
            __spec__.name,
            "hold",
            kind,
            f"--nodes={nodes}",
            f"--at={at}",
        ]
        holder = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    while not ready.exists():
        if holder.poll() is not None:
            to_standard_error((at / "log").read_text())
            to_standard_error(f"error: the {kind} cluster did not start")
            return 1
        time.sleep(0.1)
    to_standard_error(f"a {kind} cluster with {nodes} GPU nodes; scripts/cluster down ends it")
    kubectl = build.path_of("kubectl").parent
    print(f"export KUBECONFIG={ready} PATH={kubectl}:$PATH")  # noqa: T201  # for `eval`
    return 0


def _prepare(kind: str) -> None:
    build.ensure(*KINDS[kind][1])
    if kind == "deep":
        if why := deep.why_not():
            raise CannotBuild(why)
        image.ensure()


def _hold(at: Path, kind: str, nodes: int) -> int:
    with (at / "lock").open("w") as lock:
        (at / "pid").write_text(str(os.getpid()))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
        with KINDS[kind][0]() as cluster:
            added: list[str] = []
            for turn, accelerator in enumerate(ACCELERATORS):
                share = len(range(turn, nodes, len(ACCELERATORS)))
                added += cluster.add_nodes(accelerator, share)
            cluster.wait_for_nodes(added)
            making = at / "kubeconfig.making"
            shutil.copyfile(cluster.kubeconfig, making)
            making.chmod(0o600)
            making.rename(at / "kubeconfig")
            while True:
                signal.pause()


def _down(at: Path) -> int:
    holder = _holder(at)
    if not holder:
        to_standard_error("no cluster is up")
        return 0
    with suppress(ProcessLookupError):
        os.kill(holder, signal.SIGTERM)
    until = time.monotonic() + 60
    while _holder(at):
        if time.monotonic() > until:
            to_standard_error(f"error: process {holder} does not end")
            return 1
        time.sleep(0.1)
    (at / "kubeconfig").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
