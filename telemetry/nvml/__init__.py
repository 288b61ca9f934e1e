"""The door to NVML: the only package that imports ``pynvml``, and only when it is called.

No single call can be relied on: an old driver lacks a function, a GPU in MIG mode has no
utilisation, a container may not see its neighbours' processes, a GPU falls off its bus while it is
read. What one call cannot give is None, its cause is counted, and the others are asked all the same
(``asking``). GPUs are known by their UUID; NVML's index is only of the moment. Units are converted
here: NVML says mW, mJ, ns, KiB and percent.

``driver`` reads a node, ``gpus`` one GPU, by two calls for many fields each (``fields``) and one
call for each of the rest; ``mig``, ``gpm`` and ``processes`` are what their names say, ``events``
waits for errors in a thread of its own, ``library`` finds the driver.
"""

from telemetry.nvml.asking import Causes
from telemetry.nvml.driver import (
    Driver,
    DriverLostError,
    Reading,
    TensorUnits,
    Unreadable,
)
from telemetry.nvml.events import Event, EventKind
from telemetry.nvml.library import NvmlUnavailableError

__all__ = [
    "Causes",
    "Driver",
    "DriverLostError",
    "Event",
    "EventKind",
    "NvmlUnavailableError",
    "Reading",
    "TensorUnits",
    "Unreadable",
]
