"""Events: what happens, told at the object that it happens to, as ``kubectl describe`` shows it.

The name of an Event is made of what it says, so that the same said again, by whichever operator,
counts up one that is there. They are the first thing to be left out: what waits is bounded, the
oldest goes first, and they have a small rate of their own beside the writes that matter.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scheduler.kube import names
from scheduler.kube.api import Api
from scheduler.kube.bucket import Bucket
from scheduler.kube.errors import AlreadyExists, KubeError, NotFound

MOST_WAITING = 1000
QPS = 10.0
BURST = 50
CONTROLLER = "flopwise.dev/operator"
MOST_NOTE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What is said of an object."""

    resource: names.Resource
    namespace: str
    name: str
    uid: str
    reason: str  # one word
    text: str
    action: str = "Plan"
    warning: bool = False


class Notes:
    """Says them from a thread of its own."""

    def __init__(self, api: Api, identity: str, bucket: Bucket | None = None) -> None:
        self._api, self._identity = api, identity
        self._bucket = bucket or Bucket(QPS, BURST)
        self._waiting: OrderedDict[str, Note] = OrderedDict()
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._change = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="notes", daemon=True)
        self._thread.start()

    def say(self, note: Note) -> None:
        """Soon, unless there is too much to say."""
        with self._change:
            self._waiting[name_of(note)] = note
            if len(self._waiting) > MOST_WAITING:
                self._waiting.popitem(last=False)
            self._change.notify()

    def end(self) -> None:
        """Say nothing more."""
        with self._change:
            self._ended = True
            self._waiting.clear()
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._ended:
                    self._change.wait()
                if self._ended:
                    return
                name, note = self._waiting.popitem(last=False)
            self._bucket.take()
            try:
                self._write(name, note)
            except KubeError:
                continue  # an Event that is lost is no loss that matters

    def _write(self, name: str, note: Note) -> None:
        now = datetime.now(UTC)
        count = self._counts.get(name, 0) + 1
        if count == 1:
            try:
                self._api.create(names.EVENTS, event(name, note, self._identity, now))
            except AlreadyExists:
                count = 2
            except NotFound:
                return  # its namespace is going
        if count > 1:
            series = {"series": {"count": count, "lastObservedTime": _micro(now)}}
            self._api.patch(names.EVENTS, name, series, note.namespace or "default")
        self._counts[name] = count
        if len(self._counts) > 4 * MOST_WAITING:
            self._counts.popitem(last=False)


def name_of(note: Note) -> str:
    """Of the Event that says this."""
    said = f"{note.uid}\n{note.reason}\n{note.text}"
    return f"{note.name[:200]}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def event(name: str, note: Note, identity: str, now: datetime) -> dict[str, Any]:
    """The Event, said once."""
    return {
        "apiVersion": names.EVENTS.api_version,
        "kind": names.EVENTS.kind,
        "metadata": {"name": name, "namespace": note.namespace or "default"},
        "eventTime": _micro(now),
        "reportingController": CONTROLLER,
        "reportingInstance": identity[:128],
        "action": note.action,
        "reason": note.reason[:128],
        "type": "Warning" if note.warning else "Normal",
        "note": note.text[:MOST_NOTE],
        "regarding": {
            "apiVersion": note.resource.api_version,
            "kind": note.resource.kind,
            "namespace": note.namespace,
            "name": note.name,
            "uid": note.uid,
        },
    }


def _micro(now: datetime) -> str:
    """A time as ``MicroTime`` has it."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
