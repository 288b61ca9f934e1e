"""How fast a model trains: the layout that fits and is fastest, tokens a second, model FLOPs used.

GPU-seconds of one token are the sum of what it waits for: matrix products at the rate that large
products reach, attention, the reads and writes between them, tensor-parallel and expert traffic,
the optimizer; the pipeline's bubble stretches them (Narayanan et al. 2021, arXiv:2104.04473), and
sharded weights add what the work cannot hide. The coefficients below are the whole calibration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cost_models.accelerators import Accelerator, Precision, resolve_precision
from cost_models.architectures import Architecture
from cost_models.architectures import Method as Method
from cost_models.energy import watts_at_load
from cost_models.memory import (
    activation_bytes_per_token_layer,
    local_parameters,
    training_memory,
)
from cost_models.parallelism import Layout, link_gbps, training_layouts

FRAMEWORK_FRACTION = 0.80  # of what the largest products reach, over a model's own shapes
NARROW_FRACTION = 0.83  # of that again in 8 and 4 bit: scaling, and the power limit
SMALL_WIDTH = 400  # a product this narrow runs at half its rate
ATTENTION_FRACTION = 0.45  # of the 16-bit rate of large products, in fused attention
EXPERT_FRACTION = 0.33  # of the rate of dense products, in grouped ones, routing included
MEMORY_FRACTION = 0.85  # of the memory bandwidth, in the operations between products
PASSES = 6.0  # times that each kept activation is read or written, forward and backward
TENSOR_EXPOSED = 0.15  # of the tensor-parallel traffic: what work does not hide
DATA_EXPOSED = 0.12  # of the traffic between replicas
OPTIMIZER_TRAFFIC_BYTES = 45.0  # a trained weight, each step
LAYER_OVERHEAD_SECONDS = 8e-5  # launches of one layer and micro-batch, forward and backward
BATCH_TOKENS = {True: 131_072, False: 4_194_304}  # of one step: adapting, training everything
TRAINING_UTILISATION = 0.85  # of the power range, while a step runs


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEstimate:
    """One job on so many GPUs."""

    tokens_per_second_per_gpu: float
    flops_per_token: float  # useful model FLOPs of one trained token
    layout: str
    memory_gib_per_gpu: float
    mfu: float  # fraction of the dense peak that useful FLOPs take
    watts_per_gpu: float  # with its share of the host, without PUE


@dataclass(frozen=True, slots=True, kw_only=True)
class DoesNotFit:
    """Why there is no estimate. Sizes are 0 where memory is not the reason."""

    message: str
    needed_gib: float
    has_gib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is trained how, apart from where."""

    method: Method
    sequence_length: int
    precision: Precision
    micro_batch: int = 1  # sequences
    batch_tokens: float = 0.0  # of one step, over all GPUs
    recompute: bool = False
    interleave: int = 1  # pipeline stages that one GPU holds


def estimate_training(
    architecture: Architecture,
    accelerator: Accelerator,
    *,
    method: Method,
    sequence_length: int,
    precision: str,
    gpus: int,
    gpus_per_node: int,
) -> TrainingEstimate | DoesNotFit:
    """The fastest layout on ``gpus`` GPUs that fits; `UnknownName` for an unknown precision."""
    wanted = resolve_precision(precision)
    peak = accelerator.dense_tflops(wanted)
    if peak is None:
        message = f"{accelerator.name} does not compute in {wanted}"
        return DoesNotFit(message=message, needed_gib=0.0, has_gib=accelerator.memory_gib)
    least = float("inf")
    best: tuple[float, Layout, float] | None = None
    for layout, recipe in _candidates(
        architecture, method, sequence_length, wanted, gpus, gpus_per_node
    ):
        need = training_memory(
            architecture,
            layout,
            method=method,
            sequence_length=sequence_length,
            micro_batch=recipe.micro_batch,
            recompute=recipe.recompute,
        ).total
        least = min(least, need)
        if need <= accelerator.memory_gib:
            seconds = gpu_seconds_per_token(
                architecture, accelerator, layout, recipe, gpus_per_node
            )
            if best is None or seconds < best[0]:
                best = (seconds, layout, need)
    if best is None:
        return _does_not_fit(architecture, accelerator, gpus, least)
    seconds, layout, need = best
    flops = architecture.training_flops_per_token(sequence_length, method)
    return TrainingEstimate(
        tokens_per_second_per_gpu=1.0 / seconds,
        flops_per_token=flops,
        layout=str(layout),
        memory_gib_per_gpu=need,
        mfu=flops / seconds / (peak * 1e12),
        watts_per_gpu=watts_at_load(accelerator, TRAINING_UTILISATION),
    )


def sustained_flops_per_second_per_gpu(accelerator: Accelerator, precision: str) -> float | None:
    """FLOP/s that a large training run keeps up; None where the precision is not computed in.

    For work that is stated in FLOPs only: large products at the rate that whole runs reach.
    """
    peak = accelerator.dense_tflops(precision)
    return peak and peak * 1e12 * accelerator.matmul_fraction * FRAMEWORK_FRACTION * 0.75


def _does_not_fit(
    architecture: Architecture, accelerator: Accelerator, gpus: int, needed_gib: float
) -> DoesNotFit:
    message = (
        f"{architecture.id} on {gpus} x {accelerator.name} needs {needed_gib:.1f} GiB a GPU, "
        f"each has {accelerator.memory_gib:g}"
    )
    return DoesNotFit(message=message, needed_gib=needed_gib, has_gib=accelerator.memory_gib)


def _candidates(
    architecture: Architecture,
    method: Method,
    sequence_length: int,
    precision: Precision,
    gpus: int,
    gpus_per_node: int,
) -> Iterator[tuple[Layout, Recipe]]:
    layouts = training_layouts(
        architecture, gpus=gpus, gpus_per_node=gpus_per_node, sequence_length=sequence_length
    )
    large = max(1, 8192 // sequence_length)
    for layout in layouts:
        for micro_batch in {1, large}:
            for recompute in (False, True):
                yield (
                    layout,
                    Recipe(
                        method=method,
                        sequence_length=sequence_length,
                        precision=precision,
                        micro_batch=micro_batch,
                        batch_tokens=max(
                            BATCH_TOKENS[method.adapts],
                            layout.data * micro_batch * sequence_length,
                        ),
                        recompute=recompute,
                        interleave=4 if architecture.layers >= 8 * layout.pipeline else 1,
                    ),
                )


def gpu_seconds_per_token(
    architecture: Architecture,
    accelerator: Accelerator,
    layout: Layout,
    recipe: Recipe,
    gpus_per_node: int,
) -> float:
    """GPU-seconds that one trained token costs in this layout."""
    work = _work_seconds(architecture, accelerator, layout, recipe)
    traffic = _tensor_seconds(architecture, accelerator, layout, recipe, gpus_per_node)
    traffic += _expert_seconds(architecture, accelerator, layout, gpus_per_node)
    busy = (work + traffic) * _bubble(layout, recipe)
    exposed = _shard_seconds(architecture, accelerator, layout, recipe, gpus_per_node, busy)
    return busy + exposed + _optimizer_seconds(architecture, accelerator, layout, recipe)


def _work_seconds(
    architecture: Architecture, accelerator: Accelerator, layout: Layout, recipe: Recipe
) -> float:
    """Products, attention, what lies between them, launches."""
    forward_again = 1.0 if recipe.recompute else 0.0
    passes = (2.0 if recipe.method.adapts else 3.0) + forward_again
    rate = (accelerator.dense_tflops(recipe.precision) or 0.0) * 1e12
    wide = rate * accelerator.matmul_fraction * FRAMEWORK_FRACTION
    if recipe.precision.bytes < 2:
        wide *= NARROW_FRACTION
    narrow = architecture.hidden / layout.tensor
    wide *= narrow / (narrow + SMALL_WIDTH)
    dense = 2.0 * architecture.multiplied_parameters
    routed = 0.0
    if architecture.experts:
        share = architecture.active_experts / architecture.experts
        routed = 2.0 * architecture.expert_parameters * share
    products = passes * ((dense - routed) + routed / EXPERT_FRACTION) / wide
    half = accelerator.dense_tflops(Precision.BF16) or accelerator.fp16_tflops
    attended = architecture.attention_flops_per_token(recipe.sequence_length / 2)
    attention_rate = half * 1e12 * accelerator.matmul_fraction * ATTENTION_FRACTION
    attention = (3.5 + forward_again) * attended / attention_rate
    kept = architecture.layers * activation_bytes_per_token_layer(architecture)
    moved = kept * (PASSES + forward_again)
    between = moved / (accelerator.memory_bandwidth_gbps * 1e9 * MEMORY_FRACTION)
    tokens = recipe.micro_batch * recipe.sequence_length / layout.context
    launches = architecture.layers * LAYER_OVERHEAD_SECONDS * layout.tensor / tokens
    return products + attention + between + launches


def _tensor_seconds(
    architecture: Architecture,
    accelerator: Accelerator,
    layout: Layout,
    recipe: Recipe,
    gpus_per_node: int,
) -> float:
    """Gathers and scatters of a layer's input: 8 a layer, 4 more where it is computed twice."""
    if layout.tensor == 1:
        return 0.0
    gbps = link_gbps(accelerator, layout.tensor, gpus_per_node)
    operations = 12 if recipe.recompute else 8
    moved = operations * architecture.layers * 2.0 * architecture.hidden * (layout.tensor - 1)
    return TENSOR_EXPOSED * moved / (gbps * 1e9)


def _expert_seconds(
    architecture: Architecture, accelerator: Accelerator, layout: Layout, gpus_per_node: int
) -> float:
    """Tokens sent to their experts and back, forward and backward."""
    if layout.expert == 1:
        return 0.0
    gbps = link_gbps(accelerator, layout.expert, gpus_per_node)
    away = (layout.expert - 1) / layout.expert
    layers = architecture.layers - architecture.dense_layers
    moved = 4 * layers * architecture.active_experts * 2.0 * architecture.hidden * away
    return moved / (gbps * 1e9)


def _bubble(layout: Layout, recipe: Recipe) -> float:
    if layout.pipeline == 1:
        return 1.0
    sequences = recipe.batch_tokens / recipe.sequence_length
    rounds = max(1.0, sequences / (layout.data * recipe.micro_batch))
    return 1.0 + (layout.pipeline - 1) / (recipe.interleave * rounds)


def _shard_seconds(
    architecture: Architecture,
    accelerator: Accelerator,
    layout: Layout,
    recipe: Recipe,
    gpus_per_node: int,
    busy: float,
) -> float:
    """What gathering weights and reducing gradients adds to a token's time."""
    replicas = layout.data * layout.context
    if replicas == 1:
        return 0.0
    spread = layout.gpus if layout.gpus > gpus_per_node else replicas
    gbps = link_gbps(accelerator, spread, gpus_per_node)
    trained = not recipe.method.adapts
    bytes_each = 2.0 * (2 + trained) if layout.sharded else 4.0 * trained
    seconds = local_parameters(architecture, layout) * bytes_each / (gbps * 1e9)
    tokens = recipe.batch_tokens / layout.gpus
    if layout.sharded:
        tokens = recipe.micro_batch * recipe.sequence_length / layout.model_gpus
    per_token = seconds / tokens
    return max(DATA_EXPOSED * per_token, per_token - busy)


def _optimizer_seconds(
    architecture: Architecture, accelerator: Accelerator, layout: Layout, recipe: Recipe
) -> float:
    if recipe.method.adapts:
        return 0.0
    own = architecture.parameters / layout.gpus
    tokens = recipe.batch_tokens / layout.gpus
    return own * OPTIMIZER_TRAFFIC_BYTES / (accelerator.memory_bandwidth_gbps * 1e9) / tokens
