"""Kubernetes quantities to whole numbers, and what a pod asks of its node."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]?|[KMGTPE]i)")
_SUFFIXES = {
    "": Decimal(1),
    **{
        s: Decimal(10) ** p
        for s, p in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)
    },
    **{f"{s}i": Decimal(1024) ** p for p, s in enumerate("KMGTPE", 1)},
}
MEMORY = ("memory", "ephemeral-storage")
ENDED = ("Succeeded", "Failed")


def quantity(text: object) -> Decimal:
    """What a quantity says, in its unit. Raises `ValueError` for what is none.

    >>> quantity("500m"), quantity("2Gi"), quantity(3), quantity("1e3")
    (Decimal('0.500'), Decimal('2147483648'), Decimal('3'), Decimal('1E+3'))
    """
    found = _QUANTITY.fullmatch(str(text).strip())
    if not found or found[1].count(".") > 1 or found[1].strip("+-") == ".":
        raise ValueError(f"found {str(text)[:40]!r}, allowed: a quantity such as 500m or 2Gi")
    return Decimal(found[1]) * _SUFFIXES[found[2]]


@functools.lru_cache(maxsize=10_000)
def _rounded(text: str, times: int) -> int:
    """Thousands of pods ask for the same few amounts."""
    return math.ceil(quantity(text) * times)


def milli(text: object) -> int:
    """CPUs in thousandths, rounded up."""
    return _rounded(str(text), 1000)


def whole(text: object) -> int:
    """Bytes or pieces, rounded up."""
    return _rounded(str(text), 1)


def amounts(stated: Mapping[str, object] | None) -> Counter[str]:
    """A resource list: CPU in thousandths under ``cpu``, everything else in whole numbers."""
    found: Counter[str] = Counter()
    for name, value in (stated or {}).items():
        found[name] = milli(value) if name == "cpu" else whole(value)
    return found


def requests(pod_spec: Mapping[str, Any]) -> Counter[str]:
    """What a pod asks of its node, as the scheduler counts it.

    The sum of its containers and sidecars, or more where an init container that comes before them
    asks more; what the pod as a whole states replaces that; its overhead is on top.
    """
    main: Counter[str] = Counter()
    for container in pod_spec.get("containers") or ():
        main += _asked(container)
    first: Counter[str] = Counter()
    sidecars: Counter[str] = Counter()
    for container in pod_spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars += _asked(container)
            first |= sidecars
        else:
            first |= sidecars + _asked(container)
    total = (main + sidecars) | first
    total.update({k: v - total[k] for k, v in _asked(pod_spec).items()})
    return total + amounts(pod_spec.get("overhead"))


def _asked(part: Mapping[str, Any]) -> Counter[str]:
    """A limit without a request is a request of as much."""
    resources = part.get("resources") or {}
    return amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def total(parts: Iterable[Counter[str]]) -> Counter[str]:
    """The sum."""
    found: Counter[str] = Counter()
    for part in parts:
        found.update(part)
    return found
