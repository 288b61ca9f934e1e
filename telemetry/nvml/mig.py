"""MIG: the instances that a GPU is divided into, and what each of them did.

NVML gives an instance's memory and processes by its own handle, and its activity by GPM (Hopper and
later); power, clocks and errors are of the whole GPU, and stay with the GPU's own sample. Compute
instances that share a GPU instance share its activity too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from telemetry.nvml import gpus, processes
from telemetry.nvml.asking import Asking
from telemetry.nvml.gpm import Gpm
from telemetry.nvml.gpus import Gpu, Measures


class Instance:
    """One MIG device of a GPU."""

    def __init__(
        self, gpu: Gpu, *, uuid: str, profile: str | None, handle: Any, gpu_instance: int | None
    ) -> None:
        self.gpu, self.uuid, self.profile, self.handle = gpu, uuid, profile, handle
        self.gpu_instance = gpu_instance
        self.sms: int | None = None  # streaming multiprocessors that are its own
        self._gpm = (
            Gpm(gpu.asking, uuid, gpu.handle, gpu_instance) if gpu_instance is not None else None
        )

    def measure_sms(self) -> None:
        """Asks how many SMs are its own, which stays so as long as it lives."""
        nvml = self.gpu.nvml
        attributes = self.gpu.asking.ask(
            "nvmlDeviceGetAttributes_v2",
            self.uuid,
            lambda: nvml.nvmlDeviceGetAttributes_v2(self.handle),
        )
        self.sms = attributes and attributes.multiprocessorCount

    def fast(self, seconds: float) -> Measures:
        """Its memory, its processes and how active it was; as ``Gpu.fast``."""
        asking = self.gpu.asking
        found, _ = processes.read(asking, self.handle, self.uuid, 0, utilisation=False)
        measures = gpus.memory(asking, self.handle, self.uuid) | {
            "processes": found,
            "pids": None if found is None else tuple(process.pid for process in found),
        }
        if self._gpm is not None and asking.has_time("GPM", self.uuid):
            measures |= self._gpm.read(seconds, None)
        active = measures.pop("graphics_active_fraction", None)
        return measures | {"utilisation_fraction": active}

    def close(self) -> None:
        """Gives back what the driver holds for it."""
        if self._gpm is not None:
            self._gpm.close()


def instances(gpu: Gpu, known: dict[str, Instance]) -> dict[str, Instance]:
    """The instances of a GPU by UUID; one that is ``known`` and still what it was is kept."""
    found: dict[str, Instance] = {}
    for handle in _handles(gpu):
        one = _identified(gpu, handle)
        if one is None:
            continue
        old = known.get(one.uuid)
        if old is not None and old.gpu is gpu and old.gpu_instance == one.gpu_instance:
            old.handle = handle
            one = old
        else:
            one.measure_sms()
        found[one.uuid] = one
    for uuid, old in known.items():
        if found.get(uuid) is not old:
            old.close()
    return found


def _handles(gpu: Gpu) -> Iterator[Any]:
    asking, nvml = gpu.asking, gpu.nvml
    mode = asking.ask(
        "nvmlDeviceGetMigMode", gpu.uuid, lambda: nvml.nvmlDeviceGetMigMode(gpu.handle)
    )
    if not mode or mode[0] != 1:
        return
    most = asking.ask(
        "nvmlDeviceGetMaxMigDeviceCount",
        gpu.uuid,
        lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(gpu.handle),
    )
    for place in range(most or 0):
        handle = _handle(asking, gpu, place)
        if handle is not None:
            yield handle


def _handle(asking: Asking, gpu: Gpu, place: int) -> Any:
    """The MIG device at a place of its GPU, None where there is a hole."""
    nvml = gpu.nvml

    def call() -> Any:
        try:
            return nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, place)
        except nvml.NVMLError_NotFound:
            return None

    return asking.ask("nvmlDeviceGetMigDeviceHandleByIndex", gpu.uuid, call)


def _identified(gpu: Gpu, handle: Any) -> Instance | None:
    asking, nvml = gpu.asking, gpu.nvml
    uuid = asking.ask("nvmlDeviceGetUUID", gpu.uuid, lambda: nvml.nvmlDeviceGetUUID(handle))
    if uuid is None:
        return None
    name = asking.ask("nvmlDeviceGetName", uuid, lambda: nvml.nvmlDeviceGetName(handle))
    return Instance(
        gpu,
        uuid=uuid,
        profile=name.rpartition("MIG ")[2] if name and "MIG " in name else None,
        handle=handle,
        gpu_instance=asking.ask(
            "nvmlDeviceGetGpuInstanceId", uuid, lambda: nvml.nvmlDeviceGetGpuInstanceId(handle)
        ),
    )
