"""Whatever ends the tests, nothing of a cluster is left: its programs die, its folder is swept."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.cluster.api import eventually
from tests.cluster.folder import PORTS, claim, sweep
from tests.cluster.process import Died, Process

ROOT = Path(__file__).parents[2]
# Claims a folder, starts a program in it, says both, and waits to be killed.
HOLDER = """
import signal
from tests.cluster.folder import claim
from tests.cluster.process import Process
folder = claim("held", ["a"])
program = Process("program", ["sleep", "600"], folder.path / "log")
program.start()
print(folder.path, program.pid, flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOPWISE_TEST_CACHE", str(tmp_path))


@contextmanager
def holder() -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        path, pid = running.stdout.readline().split()
        try:
            yield running, Path(path), int(pid)
        finally:
            running.kill()


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_a_folder_in_use_is_left_alone_and_its_ports_are_not_given_twice() -> None:
    with holder() as (_, path, _pid):
        mine = claim("mine", [str(number) for number in range(50)])
        assert path.exists()
        assert len(set(mine.ports.values())) == 50
        assert all(port in PORTS for port in mine.ports.values())
        assert sweep(path.parent) == []
        mine.remove()
        assert path.exists()


def test_a_killed_holder_takes_its_programs_along_and_the_next_start_sweeps() -> None:
    with holder() as (running, path, pid):
        assert is_alive(pid)
        running.kill()
        running.wait()
        eventually(lambda: not is_alive(pid), "the program is dead")
        assert path.exists()
        claim("next", []).remove()
        assert not path.exists()


def test_a_port_that_somebody_listens_on_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of two ports one is taken, so the other is given, and a second one is not to be had.
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        free = next(port for port in range(20_000, 32_000) if _can_bind(port))
        monkeypatch.setattr("tests.cluster.folder.PORTS", range(free, taken + 1, taken - free))
        given = claim("a", ["only"])
        assert given.ports == {"only": free}
        with pytest.raises(OSError, match="no 1 free ports"):
            claim("b", ["another"])


def _can_bind(port: int) -> bool:
    with closing(socket.socket()) as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_program_that_ended_says_how_and_what_it_wrote(tmp_path: Path) -> None:
    program = Process("failing", ["sh", "-c", "echo out of luck; exit 3"], tmp_path / "log")
    program.start()
    eventually(lambda: not program.alive, "it ends")
    with pytest.raises(Died, match=r"(?s)failing ended with 3; .*out of luck"):
        program.check()


def test_a_paused_program_is_alive_and_can_be_stopped(tmp_path: Path) -> None:
    program = Process("sleeping", ["sleep", "600"], tmp_path / "log")
    program.start()
    program.pause()
    status = Path(f"/proc/{program.pid}/status")
    eventually(lambda: "State:\tT" in status.read_text(), "it is stopped where it is")
    assert program.alive
    program.stop()
    assert not is_alive(program.pid)
    program.restart()
    assert is_alive(program.pid)
    program.kill()
