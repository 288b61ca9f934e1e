"""The driver's events, waited for in a thread of their own: errors come when they happen.

Only what happens after registration is told. A monitor that can't wait any more ends, and says
why: whoever reads the GPUs has to look, for from then on no error is told.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from ctypes import c_void_p, cast
from dataclasses import dataclass
from enum import StrEnum
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

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

    def __init__(self, nvml: ModuleType, gpus: Sequence[tuple[str, Any]]) -> None:
        self._nvml = nvml
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._stop = threading.Event()
        # By address: a GPU that has just been lost no longer says its UUID.
        self._uuids = {_address(handle): uuid for uuid, handle in gpus}
        self.failure: str | None = None  # why it waits no more
        self.deaf: dict[str, str] = {}  # GPUs that tell no events, and why
        self._thread = threading.Thread(
            target=self._run, args=(tuple(gpus),), name="nvml-events", daemon=True
        )
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether events are being waited for."""
        return self._thread.is_alive()

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
        self._thread.join(timeout=2 * WAIT_MILLISECONDS / 1000)

    def _run(self, gpus: Sequence[tuple[str, Any]]) -> None:
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
            try:
                for uuid, handle in gpus:
                    self._register(events, uuid, handle)
                while not self._stop.is_set():
                    self._wait(events)
            finally:
                nvml.nvmlEventSetFree(events)
        except nvml.NVMLError as error:
            self.failure = str(error)

    def _register(self, events: Any, uuid: str, handle: Any) -> None:
        """A GPU that tells no events does not keep those of the others from us."""
        nvml = self._nvml
        try:
            kinds = nvml.nvmlDeviceGetSupportedEventTypes(handle) & sum(_KINDS)
            nvml.nvmlDeviceRegisterEvents(handle, kinds, events)
        except nvml.NVMLError as error:
            self.deaf[uuid] = str(error)

    def _wait(self, events: Any) -> None:
        nvml = self._nvml
        try:
            data = nvml.nvmlEventSetWait_v2(events, WAIT_MILLISECONDS)
        except nvml.NVMLError_Timeout:
            return
        kind, uuid = _KINDS.get(data.eventType), self._uuids.get(_address(data.device))
        if kind is not None and uuid is not None:
            self._events.put(Event(uuid=uuid, kind=kind, data=int(data.eventData)))


def _address(handle: Any) -> int | None:
    return cast(handle, c_void_p).value
