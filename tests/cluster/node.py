"""One real Kubernetes node: containerd, runc, the kubelet, GPUs in name. Started by `deep`.

This is the first process of namespaces of its own (mounts, processes): what it mounts, nobody else
sees, and when it ends the kernel kills every container and unmounts everything. So `/run` and
`/var/lib` are the node's own folders here, and the machine's stay as they are.

Called as ``node.py ORDER.json``, with the paths and commands that `deep` has written there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SOCKET = Path("/run/containerd/containerd.sock")
PLUGINS = Path("/var/lib/kubelet/device-plugins/kubelet.sock")


def main(order: dict[str, Any]) -> None:
    """Starts everything in turn, then waits for the first to end, which ends all."""
    state, logs = Path(order["state"]), Path(order["logs"])
    for mine, theirs in (("run", "/run"), ("lib", "/var/lib")):
        (state / mine).mkdir(parents=True)
        subprocess.run(["mount", "--bind", str(state / mine), theirs], check=True)
    for folder in ("/run/containerd", "/run/netns", "/run/lock", "/var/lib/kubelet"):
        Path(folder).mkdir(parents=True)
    running = {start("containerd", order["containerd"], logs)}
    wait_for(SOCKET)
    for image in order["images"]:
        subprocess.run([*order["import"], image], check=True, stdout=subprocess.DEVNULL)
    running.add(start("kubelet", order["kubelet"], logs))
    wait_for(PLUGINS)  # the kubelet empties this folder as it starts
    running.add(start("gpus", order["gpus"], logs))
    while True:
        ended, _ = os.wait()  # orphans of containers come to us, too
        if ended in running:
            sys.exit(f"process {ended} of {sorted(running)} ended")


def start(name: str, command: Sequence[str], logs: Path) -> int:
    """Starts a program and returns its process id."""
    with (logs / f"{name}.log").open("ab") as log:
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return started.pid


def wait_for(path: Path, within_seconds: float = 60) -> None:
    """Returns when there is such a file."""
    until = time.monotonic() + within_seconds
    while not path.exists():
        if time.monotonic() > until:
            sys.exit(f"no {path} within {within_seconds:g} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
