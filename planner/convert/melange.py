"""Mélange's input: a workload by request size, and what each type of GPU carries of it.

T. Griggs et al., Mélange: Cost Efficient Large Language Model Serving by Exploiting GPU
Heterogeneity, 2024. One JSON object:

gpu_info               GPU -> cost (USD per hour), tputs (requests per second of one GPU, by size)
workload_distribution  the part of all requests that each size has
total_request_rate     requests per second
slice_factor           into how many slices its ILP cuts a size; an answer with any split needs none

Sizes are a table, input length by output length: bucket ``2,0`` is row 2, column 0. A throughput of
0 says that the GPU cannot serve the size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.manifests.errors import Fault, ManifestErrors, found
from planner.serving import Offer, Workload

_MOST = 1e15
_NUMBER = "a number from 0 to 1e15"


@dataclass(frozen=True, slots=True, kw_only=True)
class Melange:
    """A file of Mélange."""

    workload: Workload
    slices: int  # of each bucket, in its ILP


def read_melange(path: Path) -> Melange:
    """The workload of a file.

    Raises:
        ManifestErrors: the file is not Mélange's; it names all that is wrong, by field.
    """
    document = _document(path)
    faults = [Fault(place=str(path), path=at, message=said) for at, said in _wrong(document)]
    if faults:
        raise ManifestErrors(faults)
    rows = document["workload_distribution"]
    sizes = [(i, j) for i, row in enumerate(rows) for j in range(len(row))]
    total = float(document["total_request_rate"])
    workload = Workload(
        buckets=tuple(f"{i},{j}" for i, j in sizes),
        requests_per_second=tuple(rows[i][j] * total for i, j in sizes),
        offers=tuple(
            Offer(
                name=name,
                usd_per_hour=float(gpu["cost"]),
                requests_per_second=tuple(float(gpu["tputs"][i][j]) for i, j in sizes),
            )
            for name, gpu in document["gpu_info"].items()
        ),
    )
    return Melange(workload=workload, slices=document.get("slice_factor", 1))


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        message = error.strerror or "cannot be read"
    except UnicodeDecodeError as error:
        message = f"not UTF-8 text at byte {error.start}"
    except (ValueError, RecursionError) as error:
        message = f"not JSON: {error}"
    else:
        if isinstance(document, dict):
            return document
        message = f"found {found(document)}, allowed: an object"
    raise ManifestErrors([Fault(place=str(path), message=message)])


def _wrong(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it)."""
    rows = document.get("workload_distribution")
    shape = _shape(rows)
    yield from _matrix("workload_distribution", rows, shape)
    total = document.get("total_request_rate")
    if not _is_number(total):
        yield "total_request_rate", f"found {found(total)}, allowed: {_NUMBER}"
    slices = document.get("slice_factor", 1)
    if not isinstance(slices, int) or isinstance(slices, bool) or slices < 1:
        yield "slice_factor", f"found {found(slices)}, allowed: a whole number from 1"
    gpus = document.get("gpu_info")
    if not isinstance(gpus, dict) or not gpus:
        yield "gpu_info", f"found {found(gpus)}, allowed: GPUs by name, each with cost and tputs"
        return
    for name, gpu in gpus.items():
        told = gpu if isinstance(gpu, dict) else {}
        if not _is_number(told.get("cost")):
            yield f"gpu_info.{name}.cost", f"found {found(told.get('cost'))}, allowed: {_NUMBER}"
        yield from _matrix(f"gpu_info.{name}.tputs", told.get("tputs"), shape)


def _shape(rows: object) -> list[int]:
    return [len(row) for row in rows if isinstance(row, list)] if isinstance(rows, list) else []


def _matrix(at: str, rows: object, shape: list[int]) -> Iterator[tuple[str, str]]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        yield at, f"found {found(rows)}, allowed: rows of numbers"
        return
    if [len(row) for row in rows] != shape:
        yield at, f"found rows of {_lengths(rows)}, allowed: as workload_distribution"
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if not _is_number(value):
                yield f"{at}[{i}][{j}]", f"found {found(value)}, allowed: {_NUMBER}"


def _lengths(rows: list[list[object]]) -> str:
    return ", ".join(str(len(row)) for row in rows[:8]) + (", ..." if len(rows) > 8 else "")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST
