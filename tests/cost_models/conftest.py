"""Published measurements of models that the catalog knows, where the shared data is there."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from cost_models.architectures import architectures

Rows = list[dict[str, str]]

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "validation" / "dev"
# As the published tables write them: the form factor and the memory after the name.
ACCELERATORS = {
    "A100-SXM-40GB": "a100-sxm4-40gb",
    "A100-SXM-80GB": "a100-sxm4-80gb",
    "B200-SXM-180GB": "b200",
    "GB200-NVL72": "gb200",
    "H100-PCIe-80GB": "h100-pcie-80gb",
    "H100-SXM-80GB": "h100-sxm5-80gb",
    "H200-SXM-141GB": "h200-sxm-141gb",
    "L40S-48GB": "l40s",
    "MI300X-192GB": "mi300x",
}
PRECISIONS = {"bf16": "bf16", "fp16": "fp16", "fp8": "fp8", "mxfp8": "fp8"}
PRECISIONS |= {"nvfp4": "fp4", "fp4": "fp4", "mxfp4": "fp4", "int8": "int8", "int4": "int4"}


@pytest.fixture(scope="session")
def published() -> Callable[[str], Rows]:
    """Rows of a table, of quality A or B, about models of the catalog.

    Model, accelerator and precision as the catalogs say them; the last two may be empty.
    """
    ids = {name.replace("-", ""): name for name in architectures()}

    def read(table: str) -> Rows:
        file = PUBLISHED / table
        if not file.exists():
            pytest.skip(f"published measurements are not there: {table} in {PUBLISHED}")
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if row["quality"] in ("A", "B")]
        for row in rows:
            row["model"] = ids.get(row["model"].lower().replace("-", ""), "")
            row["accelerator"] = ACCELERATORS.get(row["gpu_type"], "")
            row["precision"] = PRECISIONS.get(row.get("dtype") or row.get("weight_dtype", ""), "")
        return [row for row in rows if row["model"]]

    return read
