"""The same figures under the names, labels and units of dcgm-exporter: its dashboards work.

A GPU that one pod has to itself carries that pod; one that several share carries none, because its
figures are nobody's alone. A MIG instance has its GPU's UUID and number, and the id of its GPU
instance. Compute instances that share a GPU instance are one row there, the first; an instance
whose id the driver does not tell has none, because two such would be the same series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from telemetry.families import Family, Kind, labelled
from telemetry.owners import Basis, Share
from telemetry.samples import GpuSample

MIB = 2**20

Value = Callable[[GpuSample], float | None]


def families(
    samples: Sequence[GpuSample], shares: Sequence[Share], devices: Mapping[str, str]
) -> Iterator[Family]:
    """All of it, of one tick. ``devices``: UUIDs by the name of their device, nvidia0."""
    rows = list(_labels(samples, shares, devices))
    for name, kind, what, value_of in _METRICS:
        family = Family(name, what, kind)
        for sample, labels in rows:
            if (value := value_of(sample)) is not None:
                family.add(labels, value)
        yield family


def _labels(
    samples: Sequence[GpuSample], shares: Sequence[Share], devices: Mapping[str, str]
) -> Iterator[tuple[GpuSample, str]]:
    numbers = _numbers(samples, devices)
    owners = _sole_owners(samples, shares)
    told = set()
    for sample in samples:
        gpu, instance = sample.parent_uuid or sample.uuid, sample.gpu_instance_id
        if (gpu, instance) in told or (sample.parent_uuid is not None and instance is None):
            continue
        told.add((gpu, instance))
        number, (namespace, pod) = numbers[gpu], owners.get((gpu, instance), ("", ""))
        labels = {
            "gpu": number,
            "UUID": gpu,
            "device": f"nvidia{number}",
            "modelName": sample.name,
            "Hostname": sample.node,
            "GPU_I_PROFILE": sample.mig_profile,
            "GPU_I_ID": None if instance is None else str(instance),
            "namespace": namespace,
            "pod": pod,
        }
        yield sample, labelled({name: value for name, value in labels.items() if value})


def _sole_owners(
    samples: Sequence[GpuSample], shares: Sequence[Share]
) -> dict[tuple[str, int | None], tuple[str, str]]:
    """The pod that has a GPU, or GPU instance, all to itself."""
    of = {one.uuid: (one.parent_uuid or one.uuid, one.gpu_instance_id) for one in samples}
    found: dict[tuple[str, int | None], set[tuple[str, str]]] = {}
    for share in shares:
        if (place := of.get(share.uuid)) is not None:
            alone = share.basis is Basis.WHOLE
            pod = (share.owner.namespace, share.owner.pod) if alone else ("", "")
            found.setdefault(place, set()).add(pod)
    return {place: next(iter(pods)) for place, pods in found.items() if len(pods) == 1}


def _numbers(samples: Sequence[GpuSample], devices: Mapping[str, str]) -> dict[str, str]:
    """By UUID, the number of a GPU: its device's, else its place in the driver's order."""
    known = {uuid: name.removeprefix("nvidia") for name, uuid in devices.items()}
    gpus = dict.fromkeys(sample.parent_uuid or sample.uuid for sample in samples)
    return {gpu: known.get(gpu, str(place)) for place, gpu in enumerate(gpus)}


def _scaled(name: str, scale: float) -> Value:
    def value(sample: GpuSample) -> float | None:
        found = getattr(sample, name)
        return None if found is None else found * scale

    return value


def _mib(name: str) -> Value:
    def value(sample: GpuSample) -> float | None:
        found = getattr(sample, name)
        return None if found is None else found // MIB

    return value


def _free(sample: GpuSample) -> float | None:
    total, used = sample.memory_total_bytes, sample.memory_used_bytes
    if total is None or used is None:
        return None
    return (total - used - (sample.memory_reserved_bytes or 0)) // MIB


def _row(state: str) -> Value:
    def value(sample: GpuSample) -> float | None:
        rows = sample.remapped_rows
        return None if rows is None else float(getattr(rows, state))

    return value


_GAUGE, _COUNTER = Kind.GAUGE, Kind.COUNTER
# dcgm-exporter's name, what it is, and its value in dcgm-exporter's unit
_METRICS: tuple[tuple[str, Kind, str, Value], ...] = (
    ("DCGM_FI_DEV_SM_CLOCK", _GAUGE, "SM clock (MHz).", _scaled("sm_clock_mhz", 1)),
    ("DCGM_FI_DEV_MEM_CLOCK", _GAUGE, "Memory clock (MHz).", _scaled("memory_clock_mhz", 1)),
    (
        "DCGM_FI_DEV_MEMORY_TEMP",
        _GAUGE,
        "Memory temperature (C).",
        _scaled("memory_temperature_celsius", 1),
    ),
    ("DCGM_FI_DEV_GPU_TEMP", _GAUGE, "GPU temperature (C).", _scaled("temperature_celsius", 1)),
    ("DCGM_FI_DEV_POWER_USAGE", _GAUGE, "Power draw (W).", _scaled("power_watts", 1)),
    (
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        _COUNTER,
        "Energy since boot (mJ).",
        _scaled("energy_joules", 1000),
    ),
    ("DCGM_FI_DEV_GPU_UTIL", _GAUGE, "Utilisation (%).", _scaled("utilisation_fraction", 100)),
    (
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        _GAUGE,
        "Memory utilisation (%).",
        _scaled("memory_utilisation_fraction", 100),
    ),
    ("DCGM_FI_DEV_XID_ERRORS", _GAUGE, "The last Xid.", _scaled("last_xid", 1)),
    ("DCGM_FI_DEV_FB_FREE", _GAUGE, "Memory free (MiB).", _free),
    ("DCGM_FI_DEV_FB_USED", _GAUGE, "Memory used (MiB).", _mib("memory_used_bytes")),
    ("DCGM_FI_DEV_FB_RESERVED", _GAUGE, "Memory reserved (MiB).", _mib("memory_reserved_bytes")),
    (
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        _COUNTER,
        "Rows remapped for uncorrectable errors.",
        _row("uncorrected"),
    ),
    (
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        _COUNTER,
        "Rows remapped for correctable errors.",
        _row("corrected"),
    ),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", _GAUGE, "Whether remapping has failed.", _row("failed")),
    (
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        _GAUGE,
        "Time the graphics engine is active (ratio).",
        _scaled("utilisation_fraction", 1),
    ),
    ("DCGM_FI_PROF_SM_ACTIVE", _GAUGE, "SM activity (ratio).", _scaled("sm_active_fraction", 1)),
    (
        "DCGM_FI_PROF_SM_OCCUPANCY",
        _GAUGE,
        "SM occupancy (ratio).",
        _scaled("sm_occupancy_fraction", 1),
    ),
    (
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
        _GAUGE,
        "Tensor pipe activity (ratio).",
        _scaled("tensor_active_fraction", 1),
    ),
    (
        "DCGM_FI_PROF_DRAM_ACTIVE",
        _GAUGE,
        "Memory interface activity (ratio).",
        _scaled("dram_active_fraction", 1),
    ),
)
