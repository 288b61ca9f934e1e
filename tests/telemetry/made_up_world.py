"""A few nodes for a while, drawn: gaps, restarts, shared GPUs, MIG, owners that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from telemetry.owners import Basis, Share
from telemetry.samples import GpuSample
from telemetry.uses import Owner

CHAT = Owner(namespace="nlp", pod="chat-0", job="chat", team="nlp")
TUNE = Owner(namespace="nlp", pod="tune-0", job="tune", team="nlp", model="llama-3.1-8b")
DRAW = Owner(namespace="art", pod="draw-0", job="draw", team="art", project="ads")
STEP = timedelta(minutes=1)
GIB = 2**30
# Who may have a GPU: nobody, one, two in whole, two who leave a part, one who has a part.
HELD: tuple[tuple[tuple[Owner, float], ...], ...] = (
    (),
    ((CHAT, 1.0),),
    ((TUNE, 1.0),),
    ((CHAT, 0.75), (DRAW, 0.25)),
    ((TUNE, 0.5), (DRAW, 0.25)),
    ((DRAW, 0.125),),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What a node would tell at one instant."""

    samples: tuple[GpuSample, ...]
    shares: tuple[Share, ...]


def world(drawn: Random, start: datetime, length: timedelta) -> list[Tick]:
    """The ticks of all nodes, in order of time, at most one a step and node."""
    ticks = [tick for node in ("node-1", "node-2") for tick in _node(node, drawn, start, length)]
    return sorted(ticks, key=lambda tick: tick.samples[0].time)


def _node(node: str, drawn: Random, start: datetime, length: timedelta) -> Iterator[Tick]:
    gpus = [_Gpu(node, number, drawn, is_cut=number == 2) for number in range(3)]
    time = start
    while time <= start + length:
        told = [gpu.tick(time) for gpu in gpus if not gpu.is_away(time)]
        if told:
            yield Tick(
                samples=tuple(sample for samples, _ in told for sample in samples),
                shares=tuple(share for _, shares in told for share in shares),
            )
        time += drawn.choice((1, 1, 1, 1, 1, 2, 3, 4, 9, 75)) * STEP


class _Gpu:
    """One GPU, whose owner, load and counter go on from tick to tick."""

    def __init__(self, node: str, number: int, drawn: Random, *, is_cut: bool) -> None:
        self.node, self.uuid, self.drawn, self.is_cut = node, f"GPU-{node}-{number}", drawn, is_cut
        self.joules = 1e6 * drawn.random()
        self.held = drawn.choice(HELD)
        self.away_until: datetime | None = None
        self.at: datetime | None = None

    def is_away(self, time: datetime) -> bool:
        """Whether it says nothing for a while: lost, or its instance's pod is being moved."""
        if self.away_until is not None and time < self.away_until:
            return True
        if self.drawn.random() < 0.01:
            self.away_until = time + self.drawn.choice((2, 30, 300)) * STEP
            return True
        return False

    def tick(self, time: datetime) -> tuple[list[GpuSample], list[Share]]:
        """Its samples, and whose it is."""
        drawn = self.drawn
        if drawn.random() < 0.05:
            self.held = drawn.choice(HELD)
        watts = drawn.choice((60.0, 300.0, 650.0))
        seconds = 60.0 if self.at is None else (time - self.at).total_seconds()
        self.joules += watts * seconds
        if drawn.random() < 0.02:
            self.joules = watts * drawn.random() * 60  # the driver was started anew
        self.at = time
        whole = GpuSample(
            time=time,
            node=self.node,
            uuid=self.uuid,
            name="NVIDIA H100 80GB HBM3",
            power_watts=watts,
            energy_joules=None if drawn.random() < 0.1 else self.joules,
            memory_total_bytes=80 * GIB,
            **({} if self.is_cut else self._work()),
        )
        if not self.is_cut:
            return [whole], self._shares(whole)
        parts = [
            replace(whole, power_watts=None, energy_joules=None, **self._part(number, gib))
            for number, gib in ((1, 40), (2, 20))
        ]
        return [whole, *parts], [share for part in parts for share in self._shares(part)]

    def _work(self) -> dict[str, Any]:
        fraction = self.drawn.choice((None, 0.0, 0.0, 0.5, 1.0))
        return {
            "utilisation_fraction": fraction,
            "tensor_active_fraction": self.drawn.choice((None, 0.25)),
            "tensor_tflops": self.drawn.choice((None, 250.0)),
        }

    def _part(self, number: int, gib: int) -> dict[str, Any]:
        return {
            "uuid": f"MIG-{self.uuid}-{number}",
            "parent_uuid": self.uuid,
            "mig_profile": "3g.40gb",
            "gpu_instance_id": number,
            "memory_total_bytes": gib * GIB,
            **self._work(),
        }

    def _shares(self, sample: GpuSample) -> list[Share]:
        basis = Basis.WHOLE if len(self.held) == 1 else Basis.SM
        return [
            Share(uuid=sample.uuid, owner=owner, share_fraction=share, basis=basis)
            for owner, share in self.held
        ]
