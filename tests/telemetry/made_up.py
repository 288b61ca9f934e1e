"""A made-up cluster's last hour as a store: what the pictures show, and tests of the live view.

python -m tests.telemetry.made_up FILE
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from telemetry.samples import GpuSample
from telemetry.store import Ring
from telemetry.uses import NOBODY, Owner, Use

END = datetime(2026, 12, 1, 13, tzinfo=UTC)
MINUTES = 60
GIB = 2**30
H100, L4 = "NVIDIA H100 80GB HBM3", "NVIDIA L4"


def owner(namespace: str, job: str, pod: int = 0) -> Owner:
    return Owner(namespace=namespace, pod=f"{job}-{pod}", job=job, team=namespace)


SFT, DPO = owner("assistant", "llama33-70b-sft"), owner("assistant", "llama33-70b-dpo")
RAG, NOTEBOOK = owner("search", "reranker"), owner("research", "notebook-ada")
# Node, GPUs, owner, active, tensor, GiB, watts; the notebook has done nothing for 47 minutes.
HELD = (
    ("h100-a", range(8), SFT, 0.99, 0.52, 71.0, 655.0),
    ("h100-b", range(4), DPO, 0.97, 0.47, 68.0, 630.0),
    ("h100-b", range(4, 6), NOTEBOOK, 0.0, 0.0, 33.0, 118.0),
    ("h100-b", range(6, 8), NOBODY, 0.0, 0.0, 0.6, 70.0),
    ("l4-edge", range(2), RAG, 0.41, 0.12, 14.0, 51.0),
)


def uses(minute: int) -> Iterator[Use]:
    """All of the cluster at one minute of its hour."""
    for node, gpus, who, active, tensor, gib, watts in HELD:
        works = 0.8 if who == NOTEBOOK and minute < MINUTES - 47 else active
        for gpu in gpus:
            swing = ((gpu * 7 + minute) % 5 - 2) / 100 if works else 0.0
            sample = GpuSample(
                time=END - timedelta(minutes=MINUTES - minute),
                node=node,
                uuid=f"GPU-{node.encode().hex()[-6:]}{gpu:02d}",
                name=L4 if node.startswith("l4") else H100,
                utilisation_fraction=min(1.0, max(0.0, works + swing)),
                tensor_active_fraction=max(0.0, tensor + swing) if works else 0.0,
                memory_used_bytes=int(gib * GIB),
                memory_total_bytes=(24 if node.startswith("l4") else 80) * GIB,
                power_watts=watts + 100 * swing,
                power_limit_watts=72.0 if node.startswith("l4") else 700.0,
                temperature_celsius=31.0 + watts / 20 + gpu % 3,
            )
            yield Use(sample=sample, owner=who)


def write(path: Path) -> None:
    """The hour, a tick a minute."""
    with Ring(path) as ring:
        for minute in range(MINUTES + 1):
            ring.append(uses(minute))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
