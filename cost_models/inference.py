"""How fast a model answers: replicas that meet an objective, requests a second, time to tokens.

Decode is bound by what every step reads, the weights once and each sequence's cache; prefill by its
products (the roofline of Pope et al. 2022, arXiv:2211.05102). Batching in flight mixes both: a step
that gives each of ``b`` sequences a token also carries the prompts that replace the ``b / output``
sequences which end in it. The sequences in flight of a service with Poisson arrivals are Poisson
distributed; a percentile of the objective is held at that percentile of their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from cost_models.accelerators import Accelerator, Precision, resolve_precision
from cost_models.architectures import Architecture
from cost_models.energy import watts_at_load
from cost_models.memory import GIB, SERVING_MEMORY_FRACTION, serving_weights_gib
from cost_models.parallelism import Layout, link_gbps, tensor_sizes
from cost_models.training import DoesNotFit

PREFILL_FRACTION = 0.75  # of the rate that large products reach, in prompts
EXPERT_FRACTION = 0.15  # of the rate of dense products, in a prompt's routed ones
READ_FRACTION = 0.75  # of the memory bandwidth
REQUEST_SECONDS = 0.04  # of a request outside the model: network, tokens, queues
STEP_SECONDS = 2e-4  # scheduling, sampling
LAYER_SECONDS = 4.5e-5  # launches of one layer
EXPERT_LAYER_SECONDS = 4e-5  # more in a layer with experts: routing, uneven loads
COLLECTIVE_SECONDS = 1e-5  # latency of one all-reduce, two a layer
LINK_FRACTION = 0.25  # of a link's rate, in collectives of this size
MOST_SEQUENCES = 512  # that engines keep in flight
ACTIVATIONS_GIB = 2.0  # of one step, and the runtime's own
SERVING_UTILISATION = 0.7  # of the power range


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceEstimate:
    """One replica at the largest load at which it meets the objective."""

    gpus_per_replica: int
    requests_per_second_per_replica: float
    ttft_ms: float  # at the percentile
    tpot_ms: float  # at the percentile
    flops_per_request: float
    layout: str
    memory_gib_per_gpu: float
    watts_per_gpu: float  # with its share of the host, without PUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A model on ``gpus`` GPUs, and the shape of what it is asked."""

    architecture: Architecture
    accelerator: Accelerator
    gpus: int
    gpus_per_node: int
    precision: Precision
    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            found = f"{self.prompt_tokens} and {self.output_tokens}"
            raise ValueError(f"prompt and output tokens: found {found}, allowed: 1 and more")

    @property
    def weights_gib(self) -> float:
        """Of each GPU."""
        return serving_weights_gib(self.architecture, self.gpus, self.precision)

    @property
    def room_gib(self) -> float:
        """Of each GPU, for the caches of sequences; negative where the weights do not fit."""
        usable = self.accelerator.memory_gib * SERVING_MEMORY_FRACTION
        return usable - self.weights_gib - ACTIVATIONS_GIB

    @property
    def sequence_gib(self) -> float:
        """A whole sequence's cache, of each GPU."""
        tokens = self.prompt_tokens + self.output_tokens
        return self.architecture.kv_bytes(tokens, Precision.BF16) / self._cache_split / GIB

    @property
    def most_sequences(self) -> int:
        return max(0, min(MOST_SEQUENCES, int(self.room_gib / self.sequence_gib)))

    def prefill_seconds(self, tokens: float) -> float:
        """Products of ``tokens`` prompt tokens."""
        routed = 2.0 * self.architecture.active_expert_parameters
        flops = self.architecture.forward_flops_per_token(self.prompt_tokens)
        slowed = flops + routed * (1.0 / EXPERT_FRACTION - 1.0)
        return tokens * slowed / (self._flops_per_second * PREFILL_FRACTION)

    def step_seconds(self, sequences: float) -> float:
        """One step that gives each of ``sequences`` a token, prompts in passing included."""
        prompts = sequences * self.prompt_tokens / self.output_tokens
        work = self._decode_seconds(sequences) + self.prefill_seconds(prompts)
        return work + self._overhead_seconds(sequences + prompts)

    def ttft_seconds(self, sequences: float, tail: float) -> float:
        """A step to wait for, the others' prompts before it, and its own.

        Prompts queue for the share of time that prefill has (M/D/1); ``tail`` stretches the mean
        wait to the percentile.
        """
        prompt = float(self.prompt_tokens)
        own = self.prefill_seconds(prompt) + self._overhead_seconds(prompt)
        step = self.step_seconds(sequences)
        arrivals = sequences / self.output_tokens
        busy = min(0.95, arrivals * own / step)
        return REQUEST_SECONDS + step + own * (1.0 + tail * busy / (2.0 * (1.0 - busy)))

    @property
    def _cache_split(self) -> int:
        """GPUs that share a cache: as many as have heads of their own, the rest hold copies.

        Latent caches have no heads; they are split by sequence, which comes to the same.
        """
        return min(self.gpus, self.architecture.kv_heads)

    def _decode_seconds(self, sequences: float) -> float:
        context = self.prompt_tokens + self.output_tokens / 2
        cache = sequences * self.architecture.kv_bytes(context, Precision.BF16)
        cache *= self.gpus / self._cache_split
        bandwidth = self.gpus * self.accelerator.memory_bandwidth_gbps * 1e9 * READ_FRACTION
        products = 2.0 * self.architecture.multiplied_parameters * sequences
        reading = self._bytes_read(sequences) / bandwidth
        return max(reading, products / self._flops_per_second) + cache / bandwidth

    def _bytes_read(self, tokens: float) -> float:
        """Weights that some token of a step needs: few tokens meet few of the experts."""
        all_bytes = self.weights_gib * GIB * self.gpus
        if not self.architecture.experts:
            return all_bytes
        missed = 1.0 - self.architecture.active_experts / self.architecture.experts
        expert_bytes = self.architecture.expert_parameters * self.precision.bytes
        return all_bytes - expert_bytes * math.pow(missed, tokens)

    def _overhead_seconds(self, tokens: float) -> float:
        layers = self.architecture.layers
        seconds = STEP_SECONDS + layers * LAYER_SECONDS
        if self.architecture.experts:
            seconds += layers * EXPERT_LAYER_SECONDS
        if self.gpus > 1:
            gbps = LINK_FRACTION * link_gbps(self.accelerator, self.gpus, self.gpus_per_node)
            moved = tokens * 2.0 * self.architecture.hidden * 2 * (self.gpus - 1) / self.gpus
            seconds += 2 * layers * (COLLECTIVE_SECONDS + moved / (gbps * 1e9))
        return seconds

    @property
    def _flops_per_second(self) -> float:
        """At which large products run; formats without units of their own are widened first."""
        peak = self.accelerator.dense_tflops(self.precision) or self.accelerator.half_tflops
        return self.gpus * peak * 1e12 * self.accelerator.matmul_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Limits in milliseconds, 0 for none, held at a percentile."""

    ttft_ms: float
    tpot_ms: float
    percentile: float  # from 50 to below 100

    def __post_init__(self) -> None:
        if not 50 <= self.percentile < 100:
            raise ValueError(f"percentile: found {self.percentile}, allowed: 50 to below 100")

    @property
    def deviations(self) -> float:
        """Standard deviations above the mean at which the percentile lies; 0 without a limit."""
        return NormalDist().inv_cdf(self.percentile / 100) if self.ttft_ms or self.tpot_ms else 0.0

    @property
    def tail(self) -> float:
        """Mean waits that the percentile of an exponential wait is worth."""
        return max(1.0, -math.log1p(-self.percentile / 100))

    def peak(self, sequences: int) -> float:
        """Sequences in flight at the percentile when ``sequences`` are the mean."""
        return max(1.0, sequences + self.deviations * math.sqrt(sequences))

    def latencies_ms(self, replica: Replica, sequences: int) -> tuple[float, float]:
        """Time to the first token, and for each after it."""
        peak = self.peak(sequences)
        return (
            replica.ttft_seconds(peak, self.tail) * 1e3,
            replica.step_seconds(peak) * 1e3,
        )

    def met(self, replica: Replica, sequences: int) -> bool:
        ttft_ms, tpot_ms = self.latencies_ms(replica, sequences)
        fits = not self.deviations or self.peak(sequences) <= replica.most_sequences
        quick = not self.ttft_ms or ttft_ms <= self.ttft_ms
        return fits and quick and (not self.tpot_ms or tpot_ms <= self.tpot_ms)


def estimate_inference(
    architecture: Architecture,
    accelerator: Accelerator,
    *,
    precision: str,
    prompt_tokens: int,
    output_tokens: int,
    ttft_ms: float = 0.0,
    tpot_ms: float = 0.0,
    percentile: float = 99.0,
    gpus_per_node: int = 8,
) -> InferenceEstimate | DoesNotFit:
    """The replica size with the most requests a second per GPU within the objective.

    Sizes are the powers of two inside a node; limits of 0 are none. Raises `UnknownName` for an
    unknown precision.
    """
    objective = Objective(ttft_ms=ttft_ms, tpot_ms=tpot_ms, percentile=percentile)
    replicas = [
        Replica(
            architecture=architecture,
            accelerator=accelerator,
            gpus=gpus,
            gpus_per_node=gpus_per_node,
            precision=resolve_precision(precision),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
        )
        for gpus in tensor_sizes(architecture, gpus_per_node)
    ]
    loads = [(replica, _most_load(replica, objective)) for replica in replicas]
    able = [(replica, load) for replica, load in loads if load]
    if not able:
        return _does_not_fit(replicas[-1], objective)
    best = max(able, key=lambda one: requests_per_second(*one) / one[0].gpus)
    return _estimate(*best, objective)


def requests_per_second(replica: Replica, sequences: int) -> float:
    """Requests that end in a second while ``sequences`` are in flight."""
    return sequences / (replica.output_tokens * replica.step_seconds(sequences))


def _most_load(replica: Replica, objective: Objective) -> int:
    """The most sequences in flight, on average, within the objective; 0 where none is."""
    low, high = 0, replica.most_sequences
    while low < high:
        middle = (low + high + 1) // 2
        if objective.met(replica, middle):
            low = middle
        else:
            high = middle - 1
    return low


def _estimate(replica: Replica, sequences: int, objective: Objective) -> InferenceEstimate:
    ttft_ms, tpot_ms = objective.latencies_ms(replica, sequences)
    tokens = replica.prompt_tokens + replica.output_tokens
    used = replica.weights_gib + ACTIVATIONS_GIB + sequences * replica.sequence_gib
    return InferenceEstimate(
        gpus_per_replica=replica.gpus,
        requests_per_second_per_replica=requests_per_second(replica, sequences),
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        flops_per_request=tokens * replica.architecture.forward_flops_per_token(tokens),
        layout=str(Layout(tensor=replica.gpus)),
        memory_gib_per_gpu=used,
        watts_per_gpu=watts_at_load(replica.accelerator, SERVING_UTILISATION),
    )


def _does_not_fit(largest: Replica, objective: Objective) -> DoesNotFit:
    needed = largest.weights_gib + ACTIVATIONS_GIB + largest.sequence_gib
    has = largest.accelerator.memory_gib * SERVING_MEMORY_FRACTION
    what = f"{largest.architecture.id} on {largest.gpus} x {largest.accelerator.name}"
    if not largest.most_sequences:
        message = f"{what} needs {needed:.1f} GiB a GPU for one request, each has {has:.1f} to use"
        return DoesNotFit(message=message, needed_gib=needed, has_gib=has)
    ttft_ms, tpot_ms = objective.latencies_ms(largest, 1)
    message = f"{what} answers one request in {ttft_ms:.0f} ms and {tpot_ms:.1f} ms a token at best"
    return DoesNotFit(message=message, needed_gib=0.0, has_gib=has)
