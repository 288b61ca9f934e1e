"""A Ray of our own on this machine: started as a daemon, found again, stopped.

The head outlives whoever started it: after a kill of the executor its jobs run on, and the next
executor finds it by the state directory. It listens on 127.0.0.1 only and asks each caller for a
token, which lies in a file that only its owner reads. Its processes are known by its temporary
folder, which stands in their command lines: no number of a process is stored, so none can be
mistaken for another's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.codec import CodecError, decode, encode
from scheduler.executor.errors import ExecutorError, RayRefusedError
from scheduler.executor.journal import StateDirectory, held
from scheduler.executor.ray_jobs import RayJobs, own_lines

START_SECONDS = 120.0
STOP_SECONDS = 2.0  # nothing in a head of ours is worth saving
START_TRIES = 3  # a free port may be taken before Ray binds it
OBJECT_STORE_BYTES = 100 * 2**20  # jobs that share objects bring their own cluster
JOB_STOP_SECONDS = 60  # from SIGTERM to SIGKILL: time to save a checkpoint
_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
    "ray-client-server-port",
)
_LOG = "job-driver-"
_VITAL = ("gcs_server", "raylet", "dashboard.py")
_ROLES = (*_VITAL, "ray.scripts.scripts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One life of our Ray."""

    name: str  # new at each start
    folder: str  # Ray's temporary folder: short, for it holds sockets
    dashboard_port: int
    resources: tuple[tuple[str, float], ...]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"


def recorded(state: StateDirectory) -> Head | None:
    """The head that the state directory knows of, dead or alive."""
    try:
        return decode(Head, json.loads((state.ray / "head.json").read_bytes()))
    except (OSError, ValueError, CodecError):
        return None


def client(state: StateDirectory, head: Head) -> RayJobs:
    """The jobs of our own Ray."""
    return RayJobs(url=head.url, token=_token_file(state).read_text(encoding="utf-8"))


def alive(head: Head) -> bool:
    """Whether all processes that a head cannot do without are there."""
    return {_role(head, arguments) for _, arguments in _processes()} >= set(_VITAL)


def ensure(
    state: StateDirectory,
    resources: Mapping[str, float],
    *,
    busy: Callable[[], bool],
    say: Callable[[str], None],
) -> Head:
    """A living head that has ``resources`` (by Ray's names): the recorded one, or a new one.

    ``busy`` says whether jobs depend on the recorded head; then it is not replaced by another.
    """
    with held(state.ray / "lock", patience_seconds=START_SECONDS) as ours:
        if not ours:
            raise ExecutorError(f"{state.ray / 'lock'}: another program is starting Ray")
        head = recorded(state)
        if head and alive(head) and client(state, head).ready():
            if dict(resources).items() <= dict(head.resources).items():
                return head
            if busy():
                raise ExecutorError(
                    "the running Ray stands in for other nodes and has unfinished jobs: wait for "
                    "them, cancel them, or choose another --state-dir"
                )
        if head:
            stop(state, head)
        say("starting Ray")
        return _start(state, resources)


def stop(state: StateDirectory, head: Head) -> None:
    """End every process of ``head`` and remove its temporary folder."""
    deadline = time.monotonic() + STOP_SECONDS
    _signal_all(head, signal.SIGTERM)
    while _members(head) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_all(head, signal.SIGKILL)
    shutil.rmtree(head.folder, ignore_errors=True)
    if recorded(state) == head:
        (state.ray / "head.json").unlink(missing_ok=True)


def logged(head: Head) -> Iterator[str]:
    """Submission ids of the jobs whose logs Ray has on disk, dead or alive."""
    return (path.stem.removeprefix(_LOG) for path in _logs(head).glob(f"{_LOG}*.log"))


def read_log(head: Head, submission_id: str) -> str:
    """A job's log as Ray has it on disk, dead or alive; empty for none."""
    try:
        text = (_logs(head) / f"{_LOG}{submission_id}.log").read_text(errors="replace")
    except OSError:
        return ""
    return own_lines(text, submission_id)


def _logs(head: Head) -> Path:
    return Path(head.folder) / "session_latest" / "logs"


def _start(state: StateDirectory, resources: Mapping[str, float]) -> Head:
    if importlib.util.find_spec("ray") is None:
        raise ExecutorError("Ray is not installed here: pip install 'flopwise[ray]'")
    _write_private(_token_file(state), secrets.token_hex(32))
    output = ""
    for _ in range(START_TRIES):
        ports = _free_ports(len(_PORTS))
        head = Head(
            name=secrets.token_hex(4),
            folder=tempfile.mkdtemp(prefix="flopwise-ray-", dir=_short_folder()),
            dashboard_port=ports[1],
            resources=tuple(sorted(resources.items())),
        )
        # Recorded before it starts: a head that we do not live to see ready is found and ended.
        _write_private(state.ray / "head.json", json.dumps(encode(head)))
        code, output = _ray_start(state, head, ports)
        if code == 0 and _wait_ready(state, head):
            return head
        stop(state, head)
    said = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
    raise ExecutorError(f"Ray does not start: {said.strip()}")


def _ray_start(state: StateDirectory, head: Head, ports: list[int]) -> tuple[int, str]:
    """Run ``ray start``; its exit status and what it printed."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
    command += [f"--{name}={port}" for name, port in zip(_PORTS, ports, strict=True)]
    command += [
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
        "--include-dashboard=true",
        "--include-log-monitor=false",
        "--disable-usage-stats",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={os.cpu_count() or 1}",
        "--num-gpus=0",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--resources={json.dumps(dict(head.resources))}",
        f"--temp-dir={head.folder}",
    ]
    # A file, not a pipe: the daemons inherit it, and a pipe would never end.
    with (state.ray / "start.log").open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            env=_environment(state),
            cwd=state.root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us, not for Ray; and the session names its own
        )
        try:
            code = process.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        output.seek(0)
        return code, output.read()


def _environment(state: StateDirectory) -> dict[str, str]:
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token_file(state)),
        "RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_SECONDS),
        # "0" is how Ray is told to stay on the loopback interface on every platform: otherwise
        # it replaces 127.0.0.1 by the machine's address and listens to the network.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    theirs = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return {**theirs, **ours}


def _wait_ready(state: StateDirectory, head: Head) -> bool:
    deadline = time.monotonic() + START_SECONDS
    jobs = client(state, head)
    while time.monotonic() < deadline and alive(head):
        try:
            if jobs.ready():
                return True
        except RayRefusedError:
            pass  # a dashboard without its modules answers before it is ready
        time.sleep(0.1)
    return False


def _token_file(state: StateDirectory) -> Path:
    return state.ray / "token"


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)


def _short_folder() -> str | None:
    """A socket's path has at most about 100 characters, and Ray's own part takes 70."""
    return None if len(tempfile.gettempdir()) <= 12 else "/tmp"  # noqa: S108  # mkdtemp makes it private


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _processes() -> Iterator[tuple[int, list[str]]]:
    """(process id, arguments) of all processes that we may look at."""
    if Path("/proc/self/cmdline").exists():
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it has just ended
            yield int(folder.name), line.decode(errors="replace").split("\0")
        return
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,args="],  # noqa: S607  # the system's, by its PATH
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    for row in listed.stdout.splitlines():
        pid, _, arguments = row.strip().partition(" ")
        yield int(pid), arguments.split()


def _role(head: Head, arguments: list[str]) -> str:
    """Which of Ray's processes of ``head`` this is; empty for any other, such as a log's reader."""
    if not any(head.folder in argument for argument in arguments):
        return ""
    names = {argument.rpartition("/")[2] for argument in arguments[:4]}
    return next((role for role in _ROLES if role in names), "")


def _members(head: Head) -> set[int]:
    """All processes of ``head``: its daemons share a session that is theirs alone."""
    everyone = list(_processes())
    sessions = {_session(pid) for pid, arguments in everyone if _role(head, arguments)}
    ours = sessions - {None, _session(os.getpid())}
    return {pid for pid, _ in everyone if _session(pid) in ours and not _is_zombie(pid)}


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _is_zombie(pid: int) -> bool:
    """Dead but not collected by its parent: nothing is left to signal."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def _signal_all(head: Head, number: signal.Signals) -> None:
    for pid in _members(head):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
