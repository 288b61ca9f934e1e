"""A folder for one running cluster, ports of its own, and the removal of what a killed one left.

Who holds the lock of a folder is alive: the kernel drops a dead process's. So a folder that can be
locked belongs to nobody, and the next start removes it.
"""

from __future__ import annotations

import fcntl
import json
import random
import shutil
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TextIO

from tests.cluster.build import alone, cache_folder

# Below what the kernel gives to outgoing connections (32768 and up), so that none of those is hit.
PORTS = range(20_000, 32_000)


class RunFolder:
    """A locked folder. ``ports`` holds a free port for each name, which no other cluster has."""

    def __init__(self, path: Path, lock: TextIO, ports: dict[str, int]) -> None:
        self.path, self._lock, self.ports = path, lock, ports

    def remove(self) -> None:
        """Gives folder and ports back."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def claim(kind: str, ports: Sequence[str]) -> RunFolder:
    """A new folder with free ports, after removing the folders of clusters that are dead."""
    root = cache_folder() / "running"
    root.mkdir(parents=True, exist_ok=True)
    with alone(cache_folder() / "running.lock", lambda: None):
        sweep(root)
        taken = {port for path in root.glob("*/ports.json") for port in _read(path).values()}
        path = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=root))
        lock = (path / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        chosen = dict(zip(ports, _free_ports(len(ports), taken), strict=True))
        (path / "ports.json").write_text(json.dumps(chosen))
    return RunFolder(path, lock, chosen)


def sweep(root: Path) -> list[Path]:
    """Removes the folders under ``root`` that nobody holds, and says which."""
    dead = [path for path in root.iterdir() if not _is_held(path)]
    for path in dead:
        shutil.rmtree(path, ignore_errors=True)
    return dead


def _is_held(path: Path) -> bool:
    with suppress(FileNotFoundError), (path / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _read(path: Path) -> dict[str, int]:
    read: dict[str, int] = json.loads(path.read_text())
    return read


def _free_ports(count: int, taken: set[int]) -> list[int]:
    """Ports that nobody listens on now; all are held open until the last is found."""
    found: list[int] = []
    with ExitStack() as open_sockets:
        for port in random.sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            if port in taken:
                continue
            tried = open_sockets.enter_context(closing(socket.socket()))
            with suppress(OSError):
                tried.bind(("0.0.0.0", port))
                found.append(port)
    if len(found) < count:
        raise OSError(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")
    return found
