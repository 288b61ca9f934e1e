"""Does it fit: what one GPU must hold to train or to serve a model.

Mixed-precision Adam holds 16 bytes a trained weight (Rajbhandari et al. 2020, arXiv:1910.02054);
activations follow Korthikanti et al. 2022 (arXiv:2205.05198) with an attention that never stores
its scores (FlashAttention, arXiv:2205.14135); 4-bit frozen weights are QLoRA's (arXiv:2305.14314).
"""

from __future__ import annotations

from dataclasses import dataclass

from cost_models.accelerators import Precision
from cost_models.architectures import Architecture, Method
from cost_models.parallelism import Layout

GIB = float(2**30)

GRADIENT_BYTES = 2.0
OPTIMIZER_BYTES = 12.0  # fp32 copy of the weight and Adam's two moments
ADAPTER_FRACTION = 0.005  # of the frozen weights: rank 16 on every matrix, roughly
LOGIT_BYTES = 10.0  # of one logit: 16 bit, an fp32 copy, its gradient
RUNTIME_GIB = 2.0  # CUDA context, collective buffers, workspaces
FRAGMENTATION = 1.05  # what the allocator loses on top of what is asked of it
SERVING_MEMORY_FRACTION = 0.92  # of a GPU's memory that engines take


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """GiB on the fullest GPU, by what takes them."""

    weights: float
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    kv_cache: float = 0.0

    @property
    def total(self) -> float:
        """With what the runtime and the allocator take."""
        parts = self.weights + self.gradients + self.optimizer + self.activations + self.kv_cache
        return parts * FRAGMENTATION + RUNTIME_GIB


def training_memory(
    architecture: Architecture,
    layout: Layout,
    *,
    method: Method,
    sequence_length: int,
    micro_batch: int,
    recompute_fraction: float,
) -> MemoryNeed:
    """GiB a GPU needs to train with ``micro_batch`` sequences at a time.

    ``recompute_fraction`` of the layers keep only their input and compute the rest again.
    """
    local = local_parameters(architecture, layout)
    replicas = layout.data * layout.context
    held = local / replicas if layout.sharded else local
    frozen_bytes = Precision.INT4.bytes if method is Method.QLORA else 2.0
    trained = local * ADAPTER_FRACTION if method.adapts else local
    return MemoryNeed(
        weights=(held * frozen_bytes + _gathered_bytes(architecture, layout)) / GIB,
        gradients=trained * GRADIENT_BYTES / (replicas if layout.sharded else 1) / GIB,
        optimizer=trained * OPTIMIZER_BYTES / replicas / GIB,
        activations=_activation_bytes(
            architecture, layout, micro_batch * sequence_length, recompute_fraction
        )
        / GIB,
    )


def local_parameters(architecture: Architecture, layout: Layout) -> float:
    """Weights of one GPU before replicas shard them."""
    experts = architecture.expert_parameters
    rest = architecture.parameters - experts
    split_experts = max(layout.expert, layout.tensor)
    return (rest / layout.tensor + experts / split_experts) / layout.pipeline


def activation_bytes_per_token_layer(architecture: Architecture) -> float:
    """Bytes that one layer keeps of one token for the backward pass, in 16 bit, unsplit.

    Both norms' inputs and outputs, queries, keys, values and the attention's output, and the inner
    values of the feed-forward block.
    """
    attention = 2 * architecture.heads + 2 * architecture.kv_heads
    values = 4 * architecture.hidden + attention * architecture.head_dim
    return 2.0 * (values + architecture.ffn_matrices * _active_ffn(architecture))


def _active_ffn(architecture: Architecture) -> float:
    if not architecture.experts:
        return architecture.ffn
    routed = architecture.active_experts * architecture.expert_ffn
    return routed + architecture.shared_expert_ffn


def _activation_bytes(
    architecture: Architecture, layout: Layout, tokens: int, recompute_fraction: float
) -> float:
    """A pipeline's first stage holds as many micro-batches as there are stages: all its layers."""
    local_tokens = tokens / layout.context / layout.tensor
    one_layer = activation_bytes_per_token_layer(architecture)
    again = recompute_fraction * architecture.layers
    kept = (architecture.layers - again) * one_layer + again * 2.0 * architecture.hidden
    working = one_layer if again else 0.0
    logits = architecture.vocab * LOGIT_BYTES / layout.pipeline
    return local_tokens * (kept + working + logits)


def _gathered_bytes(architecture: Architecture, layout: Layout) -> float:
    """Two layers' weights in 16 bit, whole: the one in use and the one that is being fetched."""
    if not layout.sharded or layout.data * layout.context == 1:
        return 0.0
    return 2 * 2.0 * local_parameters(architecture, layout) / architecture.layers


def serving_weights_gib(architecture: Architecture, gpus: int, precision: str) -> float:
    """GiB of weights on each of ``gpus``; embeddings stay in 16 bit."""
    rest = architecture.parameters - architecture.embedding_parameters
    held = rest * Precision(precision).bytes + architecture.embedding_parameters * 2.0
    return held / gpus / GIB
