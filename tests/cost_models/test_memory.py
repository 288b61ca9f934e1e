"""What a GPU must hold, by hand and against published peaks."""

import statistics
from collections.abc import Callable

import pytest

from cost_models.architectures import Method, resolve_architecture
from cost_models.memory import (
    GIB,
    MemoryNeed,
    activation_bytes_per_token_layer,
    serving_weights_gib,
    training_memory,
)
from cost_models.parallelism import Layout

LLAMA_8B = resolve_architecture("llama-3.1-8b")
LLAMA_70B = resolve_architecture("llama-3.1-70b")


def need(
    layout: Layout, method: Method = Method.FULL, *, recompute_fraction: float = 0.0
) -> MemoryNeed:
    return training_memory(
        LLAMA_8B,
        layout,
        method=method,
        sequence_length=8192,
        micro_batch=1,
        recompute_fraction=recompute_fraction,
    )


def test_one_gpu_holds_sixteen_bytes_a_weight() -> None:
    one = need(Layout())
    weights = LLAMA_8B.parameters / GIB
    assert one.weights == pytest.approx(2 * weights)
    assert one.gradients == pytest.approx(2 * weights)
    assert one.optimizer == pytest.approx(12 * weights)


def test_sharding_divides_all_of_it_but_the_layers_in_use() -> None:
    # Two layers of 32 are gathered in 16 bit: 2 x 2 bytes x 1/32 of the weights.
    eight = need(Layout(data=8))
    weights = LLAMA_8B.parameters / GIB
    assert eight.weights == pytest.approx(2 * weights / 8 + 4 * weights / 32)
    assert eight.optimizer == pytest.approx(12 * weights / 8)


def test_a_pipeline_keeps_its_weights_and_shards_the_optimizer() -> None:
    two = need(Layout(pipeline=2, data=4))
    weights = LLAMA_8B.parameters / 2 / GIB
    assert (two.weights, two.gradients) == pytest.approx((2 * weights, 2 * weights))
    assert two.optimizer == pytest.approx(12 * weights / 4)


def test_adapters_hold_the_frozen_weights_and_little_else() -> None:
    # 16 bytes a weight against 2, and against 0.5625 of 4-bit weights with their scales.
    full, lora, qlora = (need(Layout(), m) for m in (Method.FULL, Method.LORA, Method.QLORA))
    assert lora.weights == full.weights
    assert qlora.weights == pytest.approx(full.weights * 0.5625 / 2)
    assert lora.optimizer < full.optimizer / 100


def test_activations_of_a_layer_by_hand() -> None:
    # 2 bytes x (4 x 4096 + (2 x 32 + 2 x 8) heads x 128 + 3 x 14336) = 139,264.
    assert activation_bytes_per_token_layer(LLAMA_8B) == 139_264


def test_a_recomputed_layer_keeps_its_input() -> None:
    # 8192 tokens x (32 x 2 x 4096 + one layer of 139,264 + 10 x 128,256 bytes of logits).
    kept = 8192 * (32 * 8192 + 139_264 + 10 * 128_256) / GIB
    assert need(Layout(), recompute_fraction=1.0).activations == pytest.approx(kept)
    # Half of the layers: 16 x 139,264 + 16 x 8,192 + 139,264 in their place.
    half = 8192 * (17 * 139_264 + 16 * 8192 + 10 * 128_256) / GIB
    assert need(Layout(), recompute_fraction=0.5).activations == pytest.approx(half)


@pytest.mark.parametrize("layout", [Layout(tensor=4), Layout(context=4)])
def test_splitting_a_sequence_divides_its_activations(layout: Layout) -> None:
    assert need(layout).activations == pytest.approx(need(Layout()).activations / 4)


def test_served_weights_by_hand() -> None:
    # 70.55e9 weights, of them 2 x 128256 x 8192 in the embeddings, which stay in 16 bit.
    embeddings = 2 * 128_256 * 8192
    held = (LLAMA_70B.parameters - embeddings) * 1 + embeddings * 2
    assert serving_weights_gib(LLAMA_70B, 4, "fp8") == pytest.approx(held / 4 / GIB)


# What the published runs recompute, as a fraction of layers; "selective" saves every other product.
RECOMPUTED = {"full": 1.0, "selective": 0.5}


def test_published_training_peaks_are_met(
    published: Callable[[str], list[dict[str, str]]],
) -> None:
    runs = [row for row in published("memory.csv") if _is_training_peak(row)]
    errors = [abs(_estimated_gib(row) / float(row["value"]) - 1) for row in runs]
    assert len(errors) >= 12
    assert statistics.median(errors) < 0.25


def _is_training_peak(row: dict[str, str]) -> bool:
    stated = row["kind"] == "train-peak" and row["unit"] == "GiB" and row["micro_batch"]
    return bool(stated and row["recompute"] in RECOMPUTED and "offload" not in row["sharding"])


def _estimated_gib(row: dict[str, str]) -> float:
    tensor, pipeline, context, data = (int(row[c] or 1) for c in ("TP", "PP", "CP", "DP"))
    return training_memory(
        resolve_architecture(row["model"]),
        Layout(tensor=tensor, pipeline=pipeline, context=context, data=data),
        method=Method.PRETRAIN,
        sequence_length=int(row["seq_len"]),
        micro_batch=int(row["micro_batch"]),
        recompute_fraction=RECOMPUTED[row["recompute"]],
    ).total
