"""Layouts: how a model is spread over GPUs, and what that makes them say to each other.

Tensor parallelism (TP) splits every product and stays inside a node; pipeline parallelism (PP)
splits the layers; what is left are data-parallel replicas (DP), whose weights, gradients and
optimizer are sharded between them (FSDP) where there is no pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cost_models.accelerators import Accelerator
from cost_models.architectures import Architecture

CONTEXT_TOKENS = 4096  # of a sequence, that are still worth a GPU of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """GPUs in each direction; their product is the GPUs in use."""

    tensor: int = 1
    pipeline: int = 1
    context: int = 1  # parts of one sequence, each on its own GPU
    data: int = 1
    expert: int = 1  # of the other GPUs, those that share one set of routed experts

    @property
    def gpus(self) -> int:
        return self.model_gpus * self.data

    @property
    def model_gpus(self) -> int:
        """GPUs that work on one sequence together."""
        return self.tensor * self.pipeline * self.context

    @property
    def sharded(self) -> bool:
        """Whether replicas shard the weights too; a pipeline would gather them too often."""
        return self.pipeline == 1

    def __str__(self) -> str:
        """As people write it: ``fsdp8``, ``tp8 pp4 dp2``; ``1 gpu`` where nothing is split."""
        replicas = "fsdp" if self.sharded else "dp"
        parts = (
            ("tp", self.tensor),
            ("pp", self.pipeline),
            ("cp", self.context),
            (replicas, self.data),
            ("ep", self.expert),
        )
        return " ".join(f"{name}{size}" for name, size in parts if size > 1) or "1 gpu"


def training_layouts(
    architecture: Architecture, *, gpus: int, gpus_per_node: int, sequence_length: int
) -> Iterator[Layout]:
    """Layouts that use exactly ``gpus``, the least split ones first."""
    contexts = tuple(_powers(min(8, max(1, sequence_length // CONTEXT_TOKENS))))
    for pipeline in _powers(min(16, gpus)):
        for tensor in tensor_sizes(architecture, min(gpus, gpus_per_node)):
            for context in contexts:
                size = pipeline * tensor * context
                if gpus % size == 0 and architecture.layers >= 2 * pipeline:
                    yield _with_experts(
                        architecture, tensor, pipeline, context, gpus // size, gpus_per_node
                    )


def tensor_sizes(architecture: Architecture, most: int) -> Iterator[int]:
    """Powers of two up to ``most`` that split the attention heads evenly."""
    return (size for size in _powers(most) if architecture.heads % size == 0)


def _with_experts(
    architecture: Architecture,
    tensor: int,
    pipeline: int,
    context: int,
    data: int,
    gpus_per_node: int,
) -> Layout:
    expert = 1
    if architecture.experts:
        room = min(tensor * context * data, architecture.experts, gpus_per_node)
        expert = max(s for s in _powers(room) if architecture.experts % s == 0)
    return Layout(tensor=tensor, pipeline=pipeline, context=context, data=data, expert=expert)


def _powers(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2


def link_gbps(accelerator: Accelerator, gpus: int, gpus_per_node: int) -> float:
    """GB/s that one of ``gpus`` neighbours can send to the others, one direction.

    The scale-up fabric while they share it, then the host's PCIe, then the network.
    """
    if gpus <= accelerator.gpus_per_domain:
        return accelerator.scale_up_gbps or accelerator.host_link_gbps
    return accelerator.host_link_gbps if gpus <= gpus_per_node else accelerator.scale_out_gbps
