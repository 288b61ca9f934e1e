"""How fast a model trains: the layout that fits and is fastest, tokens a second, model FLOPs used.

GPU-seconds of one token are the sum of what it waits for: matrix products at the rate that large
products reach, attention, the reads and writes between them, tensor-parallel and expert traffic,
the optimizer; the pipeline's bubble stretches them (Narayanan et al. 2021, arXiv:2104.04473), and
sharded weights add what the work cannot hide. The coefficients below are the whole calibration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
TENSOR_EXPOSED = 0.15  # of the traffic inside layers: what work does not hide
DATA_EXPOSED = 0.12  # of the traffic between replicas
OPTIMIZER_TRAFFIC_BYTES = 45.0  # a trained weight, each step
LAYER_OVERHEAD_SECONDS = 8e-5  # launches of one layer and micro-batch, forward and backward
BATCH_TOKENS = {  # of one step, where nobody says
    Method.PRETRAIN: 4_194_304,
    Method.FULL: 524_288,
    Method.LORA: 131_072,
    Method.QLORA: 131_072,
}
MICRO_BATCH_TOKENS = 8192  # that fill a GPU's products
RECOMPUTE_FRACTIONS = (0.0, 0.5, 1.0)  # that are tried
SUSTAINED_FRACTION = 0.75  # of the rate of products: what a whole step of a large run keeps of it
WORTH_SPLITTING = 0.97  # a layout that is split further must take at most this of the time
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
    recompute_fraction: float = 0.0  # of the layers, run again in the backward pass
    interleave: int = 1  # pipeline stages that one GPU holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A recipe in a layout on an accelerator. Times are GPU-seconds of one trained token."""

    architecture: Architecture
    accelerator: Accelerator
    layout: Layout
    recipe: Recipe
    gpus_per_node: int

    def memory_gib(self) -> float:
        """On the fullest GPU."""
        return training_memory(
            self.architecture,
            self.layout,
            method=self.recipe.method,
            sequence_length=self.recipe.sequence_length,
            micro_batch=self.recipe.micro_batch,
            recompute_fraction=self.recipe.recompute_fraction,
        ).total

    def seconds(self) -> float:
        """All of it."""
        work = self._products() + self._attention() + self._between() + self._launches()
        traffic = self._tensor_traffic() + self._context_traffic() + self._expert_traffic()
        busy = (work + traffic) * self._bubble()
        return busy + self._replica_traffic(busy) + self._optimizer()

    def _products(self) -> float:
        recipe, architecture = self.recipe, self.architecture
        rate = (self.accelerator.dense_tflops(recipe.precision) or 0.0) * 1e12
        rate *= self.accelerator.matmul_fraction * FRAMEWORK_FRACTION
        if recipe.precision.bytes < 2:
            rate *= NARROW_FRACTION
        width = architecture.hidden / self.layout.tensor
        routed = architecture.active_expert_parameters
        slowed = architecture.multiplied_parameters + routed * (1.0 / EXPERT_FRACTION - 1.0)
        passes = (2 if recipe.method.adapts else 3) + recipe.recompute_fraction
        return passes * 2.0 * slowed / rate * (1.0 + SMALL_WIDTH / width)

    def _attention(self) -> float:
        """Forward once, backward two and a half times: it computes its scores again."""
        rate = self.accelerator.half_tflops * 1e12 * self.accelerator.matmul_fraction
        flops = self.architecture.attention_flops_per_token(self.recipe.sequence_length / 2)
        return (3.5 + self.recipe.recompute_fraction) * flops / (rate * ATTENTION_FRACTION)

    def _between(self) -> float:
        """Norms, activations, residuals: bound by what they read and write."""
        kept = self.architecture.layers * activation_bytes_per_token_layer(self.architecture)
        bandwidth = self.accelerator.memory_bandwidth_gbps * 1e9 * MEMORY_FRACTION
        return kept * (PASSES + self.recipe.recompute_fraction) / bandwidth

    def _launches(self) -> float:
        tokens = self.recipe.micro_batch * self.recipe.sequence_length / self.layout.context
        return self.architecture.layers * LAYER_OVERHEAD_SECONDS * self.layout.tensor / tokens

    def _tensor_traffic(self) -> float:
        """Gathers and scatters of a layer's input: 8 a layer, 4 more where it runs again."""
        others = self.layout.tensor - 1
        operations = (8 + 4 * self.recipe.recompute_fraction) * self.architecture.layers
        moved = operations * 2.0 * self.architecture.hidden * others
        return TENSOR_EXPOSED * moved / self._bytes_per_second(self.layout.tensor)

    def _context_traffic(self) -> float:
        """Keys and values on their way past the other parts of a sequence, three times."""
        moved = 3 * self.architecture.kv_bytes_per_token(Precision.BF16) * (self.layout.context - 1)
        return TENSOR_EXPOSED * moved / self._bytes_per_second(self.layout.context)

    def _expert_traffic(self) -> float:
        """Tokens to their experts and back, forward and backward."""
        away = 1.0 - 1.0 / self.layout.expert
        layers = self.architecture.layers - self.architecture.dense_layers
        copies = 4 * layers * self.architecture.active_experts
        moved = copies * 2.0 * self.architecture.hidden * away
        return moved / self._bytes_per_second(self.layout.expert)

    def _bubble(self) -> float:
        """How much longer a pipeline takes: it fills and drains once a step, at its slowest stage.

        Stages hold whole layers, the last the output head as well.
        """
        stages = self.layout.pipeline
        if stages == 1:
            return 1.0
        architecture = self.architecture
        head = architecture.vocab * architecture.hidden
        layer = (architecture.multiplied_parameters - head) / architecture.layers
        fair = (architecture.layers + head / layer) / stages
        slowest = max(head / layer, math.ceil(fair)) / fair
        sequences = self.recipe.batch_tokens / self.recipe.sequence_length
        rounds = max(1.0, sequences / (self.layout.data * self.recipe.micro_batch))
        return slowest * (1.0 + (stages - 1) / (self.recipe.interleave * rounds))

    def _replica_traffic(self, busy: float) -> float:
        """What gathering weights and reducing gradients adds to ``busy``."""
        replicas = self.layout.data * self.layout.context
        if replicas == 1:
            return 0.0
        trained = not self.recipe.method.adapts
        tokens = self.recipe.batch_tokens / self.layout.gpus
        bytes_each = 4.0 * trained
        if self.layout.sharded:  # gathered forward and backward, in every micro-batch
            tokens = self.recipe.micro_batch * self.recipe.sequence_length / self.layout.model_gpus
            bytes_each = 2.0 * (2 + trained)
        spread = self.layout.gpus if self.layout.gpus > self.gpus_per_node else replicas
        moved = local_parameters(self.architecture, self.layout) * bytes_each
        seconds = moved / self._bytes_per_second(spread) / tokens
        return max(DATA_EXPOSED * seconds, seconds - busy)

    def _optimizer(self) -> float:
        if self.recipe.method.adapts:
            return 0.0
        moved = self.architecture.parameters * OPTIMIZER_TRAFFIC_BYTES / self.recipe.batch_tokens
        return moved / (self.accelerator.memory_bandwidth_gbps * 1e9)

    def _bytes_per_second(self, gpus: int) -> float:
        return link_gbps(self.accelerator, gpus, self.gpus_per_node) * 1e9


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
    if accelerator.dense_tflops(wanted) is None:
        message = f"{accelerator.name} does not compute in {wanted}"
        return DoesNotFit(message=message, needed_gib=0.0, has_gib=accelerator.memory_gib)
    least_gib, best, best_seconds = math.inf, None, math.inf
    for layout in training_layouts(
        architecture, gpus=gpus, gpus_per_node=gpus_per_node, sequence_length=sequence_length
    ):
        recipes = _recipes(architecture, layout, method, sequence_length, wanted)
        tightest = Run(
            architecture=architecture,
            accelerator=accelerator,
            layout=layout,
            recipe=recipes[-1],
            gpus_per_node=gpus_per_node,
        )
        tightest_gib = tightest.memory_gib()
        least_gib = min(least_gib, tightest_gib)
        if tightest_gib > accelerator.memory_gib:
            continue
        run = _first_that_fits(tightest, recipes)
        seconds = run.seconds()
        if seconds < best_seconds * WORTH_SPLITTING:
            best, best_seconds = run, seconds
    if best is None:
        return _does_not_fit(architecture, accelerator, gpus, least_gib)
    return _estimate(best, best_seconds)


def sustained_flops_per_second_per_gpu(accelerator: Accelerator, precision: str) -> float | None:
    """FLOP/s that a large training run keeps up; None where the precision is not computed in.

    For work that is stated in FLOPs alone.
    """
    peak = accelerator.dense_tflops(precision)
    if peak is None:
        return None
    fraction = accelerator.matmul_fraction * FRAMEWORK_FRACTION * SUSTAINED_FRACTION
    return peak * 1e12 * fraction


def _recipes(
    architecture: Architecture,
    layout: Layout,
    method: Method,
    sequence_length: int,
    precision: Precision,
) -> tuple[Recipe, ...]:
    """From the fastest to the one that holds least."""
    large = max(1, MICRO_BATCH_TOKENS // sequence_length)
    return tuple(
        Recipe(
            method=method,
            sequence_length=sequence_length,
            precision=precision,
            micro_batch=micro_batch,
            batch_tokens=max(BATCH_TOKENS[method], layout.data * micro_batch * sequence_length),
            recompute_fraction=recompute_fraction,
            interleave=4 if architecture.layers >= 8 * layout.pipeline else 1,
        )
        for recompute_fraction in RECOMPUTE_FRACTIONS
        for micro_batch in dict.fromkeys((large, 1))
    )


def _first_that_fits(tightest: Run, recipes: tuple[Recipe, ...]) -> Run:
    """The fastest recipe that fits, knowing that the tightest does."""
    runs = (replace(tightest, recipe=recipe) for recipe in recipes[:-1])
    fitting = (run for run in runs if run.memory_gib() <= run.accelerator.memory_gib)
    return next(fitting, tightest)


def _estimate(run: Run, seconds: float) -> TrainingEstimate:
    recipe = run.recipe
    flops = run.architecture.training_flops_per_token(recipe.sequence_length, recipe.method)
    peak = run.accelerator.dense_tflops(recipe.precision) or math.inf
    return TrainingEstimate(
        tokens_per_second_per_gpu=1.0 / seconds,
        flops_per_token=flops,
        layout=str(run.layout),
        memory_gib_per_gpu=run.memory_gib(),
        mfu=flops / seconds / (peak * 1e12),
        watts_per_gpu=watts_at_load(run.accelerator, TRAINING_UTILISATION),
    )


def _does_not_fit(
    architecture: Architecture, accelerator: Accelerator, gpus: int, needed_gib: float
) -> DoesNotFit:
    message = (
        f"{architecture.id} on {gpus} x {accelerator.name} needs {needed_gib:.1f} GiB a GPU, "
        f"each has {accelerator.memory_gib:g}"
    )
    return DoesNotFit(message=message, needed_gib=needed_gib, has_gib=accelerator.memory_gib)
