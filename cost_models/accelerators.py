"""What GPUs and other accelerators are: memory, dense rates, links, power and names.

One row of ``data/accelerators.csv`` each; an accelerator is never an ``if`` in the code. Rates are
dense: where a vendor's headline counts structured sparsity, the row holds half of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from cost_models.names import UnknownName, find, nearest
from cost_models.tables import (
    AtLeastOne,
    Count,
    Id,
    NotNegative,
    Positive,
    Share,
    TableError,
    Text,
    Words,
    read_bundled,
    read_table,
)


class Precision(StrEnum):
    """Number formats that weights are held and multiplied in."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    INT8 = "int8"
    FP4 = "fp4"
    INT4 = "int4"  # weights only: multiplied in 16 bit

    @property
    def bytes(self) -> float:
        """Bytes that one number takes; block scales of the 4-bit formats included (1/16 byte)."""
        return _BYTES[self]


_BYTES = {
    Precision.FP32: 4.0,
    Precision.TF32: 4.0,
    Precision.BF16: 2.0,
    Precision.FP16: 2.0,
    Precision.FP8: 1.0,
    Precision.INT8: 1.0,
    Precision.FP4: 0.5625,
    Precision.INT4: 0.5625,
}


def resolve_precision(name: str) -> Precision:
    """The precision of that name; `UnknownName` where there is none."""
    try:
        return Precision(name.lower())
    except ValueError:
        raise UnknownName("precision", name, nearest(name.lower(), Precision)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One accelerator, as the software sees it (a K80 board is two)."""

    id: Id
    name: Text
    vendor: Text
    memory_gib: Positive  # as the driver reports it, ECC on
    memory_bandwidth_gbps: Positive  # GB/s
    fp32_tflops: NotNegative = 0.0  # 0: no such unit, or not published
    tf32_tflops: NotNegative = 0.0
    bf16_tflops: NotNegative = 0.0
    fp16_tflops: NotNegative = 0.0
    fp8_tflops: NotNegative = 0.0
    fp4_tflops: NotNegative = 0.0
    int8_tflops: NotNegative = 0.0  # tera-operations
    sms: Count = 0  # streaming multiprocessors; 0: none, or not known
    dense_clock_mhz: NotNegative = 0.0  # of the SMs, at which the dense rates hold; 0: not known
    matmul_fraction: Share  # of the dense rate that large products reach: measured, or a like part
    gpus_per_domain: AtLeastOne  # joined by the scale-up fabric (NVLink, xGMI, ICI); 1: none
    scale_up_gbps: NotNegative = 0.0  # GB/s of one accelerator into that fabric, one direction
    host_link_gbps: Positive  # GB/s over PCIe or C2C, one direction
    scale_out_gbps: Positive  # GB/s of network for each, in nodes it is usually rented in
    tdp_watts: Positive
    idle_watts: Positive
    host_watts: NotNegative  # its share of CPU, memory, fans and network under load
    mig_profiles: Words = ()  # e.g. 1g.10gb
    nvml_name: str = ""
    gfd_product: str = ""  # node label nvidia.com/gpu.product
    aliases: Words = ()
    confidence: str = ""  # A: vendor page agrees with a second source; B: one source; C: conflict
    source: Text

    def dense_tflops(self, precision: str) -> float | None:
        """Peak rate without sparsity in TFLOP/s; None where the hardware has no such unit."""
        rate: float = getattr(self, f"{resolve_precision(precision)}_tflops", 0.0)
        return rate or None

    @property
    def flops_per_clock(self) -> float | None:
        """Dense 16-bit FLOP of one SM in one clock; None where SMs or clock are not known."""
        if not self.sms or not self.dense_clock_mhz:
            return None
        return self.half_tflops * 1e12 / (self.sms * self.dense_clock_mhz * 1e6)

    @property
    def half_tflops(self) -> float:
        """Peak rate in 16 bit, or in 32 where there is no such unit."""
        return self.bf16_tflops or self.fp16_tflops or self.fp32_tflops


def read_accelerators(path: Path) -> tuple[Accelerator, ...]:
    """Rows of a file of the same columns; `TableError` says everything that is wrong with it."""
    return _checked(read_table(path, Accelerator, unique=("id",)), str(path))


@cache
def accelerators() -> Mapping[str, Accelerator]:
    """The catalog by id."""
    rows = read_bundled("accelerators.csv", Accelerator, unique=("id",))
    return {row.id: row for row in _checked(rows, "accelerators.csv")}


def resolve_accelerator(name: str) -> Accelerator:
    """By id, alias, NVML name or GFD product label, whatever the case; else `UnknownName`."""
    return find("accelerator", name, accelerators(), _aliases())


@cache
def _aliases() -> Mapping[str, str]:
    return {name: row.id for row in accelerators().values() for name in _names(row)}


def _names(row: Accelerator) -> tuple[str, ...]:
    labels = (row.nvml_name.lower(), row.gfd_product.lower())
    return tuple(dict.fromkeys((*row.aliases, *filter(None, labels))))


def _checked(rows: tuple[Accelerator, ...], source: str) -> tuple[Accelerator, ...]:
    """The rows, where no name means two of them."""
    owner = {row.id: row.id for row in rows}
    problems = [
        f"{source}: {name!r} names both {owner[name]} and {row.id}"
        for row in rows
        for name in _names(row)
        if owner.setdefault(name, row.id) != row.id
    ]
    if problems:
        raise TableError(tuple(problems))
    return rows
