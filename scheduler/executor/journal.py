"""The state directory: what must outlive a kill of the executor, at any moment.

``journal.jsonl`` is append-only. Each effect is written before it is tried and after it is done,
and is on the disk before we go on; state is never stored, only folded from the events. Several
programs may append (`cancel` beside a running `apply`): a line goes out in one write to a file
opened for append. A line that a power cut tore is not JSON; its effect is one of which only the
intent is known.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from planner.codec import CodecError, decode, encode
from scheduler.executor import records
from scheduler.executor.errors import ExecutorError
from scheduler.executor.records import Event, Run, fold

_KINDS: Mapping[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        records.RunOpened,
        records.SubmitIntended,
        records.Submitted,
        records.StopIntended,
        records.StopSent,
        records.Ended,
        records.CancelRequested,
        records.Settled,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDirectory:
    """Where everything lies."""

    root: Path

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def ray(self) -> Path:
        """Which Ray is ours, and its token."""
        return self.root / "ray"

    @property
    def lock(self) -> Path:
        """Held by the one executor."""
        return self.root / "lock"

    def log(self, submission_id: str) -> Path:
        """The copy of an attempt's log."""
        return self.root / "logs" / f"{submission_id}.log"

    def report(self, submission_id: str) -> Path:
        """What `guard` says of an attempt."""
        return self.root / "reports" / f"{submission_id}.json"

    def create(self) -> None:
        """Make the folders, closed to other users: logs and the token are nobody else's."""
        try:
            for folder in (self.root, self.ray, self.root / "logs", self.root / "reports"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ExecutorError(f"{self.root}: {error.strerror}") from None


def default_root(environment: Mapping[str, str]) -> Path:
    """``FLOPWISE_STATE_DIR``, else ``flopwise`` in the XDG state folder."""
    if named := environment.get("FLOPWISE_STATE_DIR"):
        return Path(named)
    if base := environment.get("XDG_STATE_HOME"):
        return Path(base) / "flopwise"
    return Path.home() / ".local" / "state" / "flopwise"


@contextmanager
def held(path: Path, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Hold the lock file ``path``; yields whether we got it. The kernel frees it when we die."""
    deadline = time.monotonic() + patience_seconds
    with path.open("a") as handle:
        while not (got := _locked(handle)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield got


def _locked(handle: TextIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Journal:
    """The events of a state directory, and the runs that they fold to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0  # bytes
        self._runs: dict[str, Run] = {}

    @property
    def runs(self) -> Mapping[str, Run]:
        """By name, oldest first, as of the last `refresh`."""
        return self._runs

    def refresh(self) -> Mapping[str, Run]:
        """Read what has been appended, by us or by others."""
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._read)
                fresh = handle.read()
        except FileNotFoundError:
            return self._runs
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        self._runs = fold(self._runs, _events(whole))
        return self._runs

    def append(self, *events: Event) -> None:
        """Write ``events``; they are on the disk when this returns."""
        lines = "".join(json.dumps(_document(e), allow_nan=False) + "\n" for e in events).encode()
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, b"\n" + lines if torn else lines)
            os.fsync(handle)
        finally:
            os.close(handle)


def _document(event: Event) -> dict[str, Any]:
    return {"event": type(event).__name__, **encode(event)}


def _events(text: bytes) -> Iterator[Event]:
    for line in text.splitlines():
        try:
            data = json.loads(line)
            kind = _KINDS[data.pop("event")]
            yield decode(kind, data)
        except (ValueError, KeyError, AttributeError, TypeError, CodecError):
            continue  # torn, see above
