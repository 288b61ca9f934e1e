"""GPU performance monitoring (Hopper and later): how much of the chip worked, not only whether.

A figure is made of two samples, at least 100 ms apart; so a GPU gives none the first time that it
is seen. In the guests of a shared GPU the driver may promise GPM and fail: the first pair of
samples is a probe, and where it fails GPM is not asked again in this session.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from telemetry.nvml.asking import Asking

SHORTEST_SECONDS = 0.1  # between two samples; sooner, the last figures hold
LONGEST_SECONDS = 600.0  # after a longer gap a mean says nothing of now
STUCK = "all figures 0 while the GPU is busy"
_BUSY_FRACTION = 0.5
_METRICS = {  # ours: NVML's number; NVML gives percent
    "graphics_active_fraction": 1,
    "sm_active_fraction": 2,
    "sm_occupancy_fraction": 3,
    "tensor_active_fraction": 5,
    "dram_active_fraction": 10,
}


class Gpm:
    """The running pair of samples of one GPU, or of one GPU instance of it."""

    def __init__(self, asking: Asking, uuid: str, gpu: Any, instance: int | None = None) -> None:
        self._asking, self._nvml, self._uuid = asking, asking.nvml, uuid
        self._gpu, self._instance = gpu, instance
        self._works: bool | None = None  # None: not probed yet
        self._old: Any = None
        self._new: Any = None
        self._taken: float | None = None  # when the newest sample was
        self._figures: dict[str, float] = {}
        self._request: Any = None

    def read(self, seconds: float, utilisation: float | None) -> dict[str, float]:
        """The mean fractions since the last call, {} if unknown. ``seconds``: of a steady clock."""
        if not self._is_ready():
            return {}
        passed = LONGEST_SECONDS if self._taken is None else seconds - self._taken
        if passed < SHORTEST_SECONDS:
            return self._figures
        if self._take():
            self._taken = seconds
            self._figures = self._mean() if passed < LONGEST_SECONDS else {}
        else:
            self._taken, self._figures = None, {}  # the pair is broken: the next one is a first
        return self._plausible(utilisation)

    def close(self) -> None:
        """Frees the samples."""
        for sample in (self._old, self._new):
            if sample is not None:
                self._ask("nvmlGpmSampleFree", partial(self._nvml.nvmlGpmSampleFree, sample))
        self._old = self._new = None

    def _is_ready(self) -> bool:
        if self._works is False:
            return False
        if self._old is None:
            self._works = None if self._promises() and self._allocate() else False
        return self._works is not False

    def _promises(self) -> bool:
        support = self._ask(
            "nvmlGpmQueryDeviceSupport", lambda: self._nvml.nvmlGpmQueryDeviceSupport(self._gpu)
        )
        return bool(support and support.isSupportedDevice)

    def _allocate(self) -> bool:
        self._old = self._ask("nvmlGpmSampleAlloc", self._nvml.nvmlGpmSampleAlloc)
        self._new = self._ask("nvmlGpmSampleAlloc", self._nvml.nvmlGpmSampleAlloc)
        request = self._nvml.c_nvmlGpmMetricsGet_t()
        request.version = self._nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(_METRICS)
        for place, number in enumerate(_METRICS.values()):
            request.metrics[place].metricId = number
        self._request = request
        return self._old is not None and self._new is not None

    def _take(self) -> bool:
        """A new sample; the last one becomes the old one."""
        self._old, self._new = self._new, self._old
        if self._instance is None:
            taken = self._ask(
                "nvmlGpmSampleGet", lambda: self._nvml.nvmlGpmSampleGet(self._gpu, self._new)
            )
        else:
            taken = self._ask(
                "nvmlGpmMigSampleGet",
                lambda: self._nvml.nvmlGpmMigSampleGet(self._gpu, self._instance, self._new),
            )
        return taken is not None

    def _mean(self) -> dict[str, float]:
        request = self._request
        request.sample1, request.sample2 = self._old, self._new
        answer = self._ask("nvmlGpmMetricsGet", lambda: self._nvml.nvmlGpmMetricsGet(request))
        if self._works is None:
            self._works = answer is not None
        found = {}
        for place, name in enumerate(_METRICS) if answer is not None else ():
            metric = request.metrics[place]
            if metric.nvmlReturn:
                self._asking.refused(f"GPM {name}", self._uuid, metric.nvmlReturn)
            else:
                found[name] = min(max(metric.value / 100, 0.0), 1.0)
        return found

    def _plausible(self, utilisation: float | None) -> dict[str, float]:
        """After some errors the figures stay at 0 while kernels run: then they are not known."""
        stuck = self._figures and not any(self._figures.values())
        if stuck and utilisation is not None and utilisation >= _BUSY_FRACTION:
            self._asking.causes.note("nvmlGpmMetricsGet", STUCK, self._uuid)
            return {}
        return self._figures

    def _ask(self, call: str, function: Callable[[], Any]) -> Any:
        return self._asking.ask(call, self._uuid, function)
