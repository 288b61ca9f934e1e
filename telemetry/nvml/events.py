"""The driver's events, waited for in a thread of their own: errors come when they happen.

Only what happens after registration is told. A monitor that can't wait any more ends, and says
why: whoever reads the GPUs has to look, for from then on no error is told.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from ctypes import c_void_p, cast
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from telemetry.nvml.asking import Asking

WAIT_MILLISECONDS = 1000


class EventKind(StrEnum):
    """What the driver told."""

    XID = "xid"
    ECC_UNCORRECTED = "ecc_uncorrected"
    UNAVAILABLE = "unavailable"
    RECOVERY_ACTION = "recovery_action"


_KINDS = {  # nvmlEventType*; corrected errors are counted elsewhere, and can come in storms
    0x8: EventKind.XID,
    0x2: EventKind.ECC_UNCORRECTED,
    0x4000: EventKind.UNAVAILABLE,
    0x8000: EventKind.RECOVERY_ACTION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of one GPU."""

    uuid: str  # of the GPU, also where an instance of it is meant
    kind: EventKind
    data: int  # of an Xid its number, of a recovery action NVML's number of it


class Monitor:
    """Waits for the events of some GPUs until it is closed, or until NVML refuses."""

    def __init__(self, asking: Asking, gpus: Sequence[tuple[str, Any]], node: str) -> None:
        self._nvml = asking.nvml
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._stop = threading.Event()
        # By address: a GPU that has just been lost no longer says its UUID.
        self._uuids = {_address(handle): uuid for uuid, handle in gpus}
        self.failure: str | None = None  # why it waits no more
        self._thread = threading.Thread(target=self._run, name="nvml-events", daemon=True)
        self._set = asking.ask("nvmlEventSetCreate", node, self._nvml.nvmlEventSetCreate)
        if self._set is None:
            self.failure = asking.last_cause
            return
        told = [
            asking.ask("nvmlDeviceRegisterEvents", u, partial(self._register, h)) for u, h in gpus
        ]
        if not any(told):
            self.failure = asking.last_cause
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether events are being waited for."""
        return self._thread.is_alive() and self.failure is None

    def take(self) -> tuple[Event, ...]:
        """What has happened since the last call."""
        found = []
        while True:
            try:
                found.append(self._events.get_nowait())
            except Empty:
                return tuple(found)

    def close(self) -> None:
        """Ends it, at the end of the present wait."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * WAIT_MILLISECONDS / 1000)

    def _register(self, handle: Any) -> bool:
        """A GPU that tells no events does not keep those of the others from us."""
        kinds = self._nvml.nvmlDeviceGetSupportedEventTypes(handle) & sum(_KINDS)
        self._nvml.nvmlDeviceRegisterEvents(handle, kinds, self._set)
        return True

    def _run(self) -> None:
        """The thread. It asks NVML by itself: what it fails at ends it, and is its ``failure``."""
        nvml = self._nvml
        try:
            while not self._stop.is_set() and self.failure is None:
                self._wait()
        except nvml.NVMLError as error:
            self.failure = str(error)
        with suppress(nvml.NVMLError):
            nvml.nvmlEventSetFree(self._set)

    def _wait(self) -> None:
        nvml = self._nvml
        try:
            data = nvml.nvmlEventSetWait_v2(self._set, WAIT_MILLISECONDS)
        except nvml.NVMLError_Timeout:
            return
        kind, uuid = _KINDS.get(data.eventType), self._uuids.get(_address(data.device))
        if kind is not None and uuid is not None:
            self._events.put(Event(uuid=uuid, kind=kind, data=int(data.eventData)))


def _address(handle: Any) -> int | None:
    return cast(handle, c_void_p).value
