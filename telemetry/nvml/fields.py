"""Field values: what NVML gives by number, many in one call.

There are two lists, one for each tick and one for the slow tier, each read by one call. A field
that a GPU lacks carries its own error in the answer; the others are good. Traffic is read from
counters: ``nvmlDeviceGetPcieThroughput`` would hold us for 20 ms a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from telemetry.nvml.asking import Asking

ALL_LINKS = 0xFFFFFFFF  # the scope that sums a counter up over the NVLinks
_VALUE_OF_TYPE = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")

# A name of ours, NVML's number, its scope. The numbers are those of nvml.h, fixed but for two.
Field = tuple[str, int, int]

_EACH_TICK: tuple[Field, ...] = (
    ("power_instant_mw", 186, 0),
    ("power_average_mw", 185, 0),
    ("energy_mj", 83, 0),
    ("memory_temperature", 82, 0),
    ("throttled_sw_power_cap_ns", 74, 0),
    ("throttled_sw_thermal_ns", 75, 0),
    ("throttled_sync_boost_ns", 76, 0),
    ("throttled_board_limit_ns", 77, 0),
    ("throttled_reliability_ns", 79, 0),
    ("nvlink_tx_bytes", 202, ALL_LINKS),  # NVLink 5
    ("nvlink_rx_bytes", 204, ALL_LINKS),
    ("nvlink_tx_kib", 138, ALL_LINKS),  # up to NVLink 4
    ("nvlink_rx_kib", 139, ALL_LINKS),
    ("pcie_tx_bytes", 197, 0),
    ("pcie_rx_bytes", 198, 0),
)
SLOW: tuple[Field, ...] = (
    ("ecc_corrected", 3, 0),
    ("ecc_uncorrected", 4, 0),
    ("retired_corrected", 29, 0),
    ("retired_uncorrected", 30, 0),
    ("rows_corrected", 142, 0),
    ("rows_uncorrected", 143, 0),
    ("rows_pending", 144, 0),
    ("rows_failed", 145, 0),
    ("recovery_action", 230, 0),
)


def each_tick(branch: int | None) -> tuple[Field, ...]:
    """The fields of the fast tier for a driver of that branch.

    Two counters were numbered anew between the headers of 580 and 615; of drivers between, which
    numbers hold is not known, and under a wrong one stands something else. There they are left out.
    """
    if branch is not None and 565 <= branch <= 580:
        hardware = (252, 253)
    elif branch is not None and branch >= 615:
        hardware = (270, 271)
    else:
        return _EACH_TICK
    return (
        *_EACH_TICK,
        ("throttled_hw_thermal_ns", hardware[0], 0),
        ("throttled_hw_power_brake_ns", hardware[1], 0),
    )


def read(asking: Asking, handle: Any, uuid: str, fields: Sequence[Field]) -> dict[str, Any]:
    """The values that the GPU gives, by our names; those that it lacks are left out."""
    call = "nvmlDeviceGetFieldValues"
    wanted = [(number, scope) for _, number, scope in fields]
    answers = asking.ask(call, uuid, lambda: asking.nvml.nvmlDeviceGetFieldValues(handle, wanted))
    found = {}
    for (name, _, _), answer in zip(fields, answers or (), strict=False):
        if answer.nvmlReturn:
            asking.refused(f"field {name}", uuid, answer.nvmlReturn)
        elif answer.valueType < len(_VALUE_OF_TYPE):
            found[name] = getattr(answer.value, _VALUE_OF_TYPE[answer.valueType])
    return found
