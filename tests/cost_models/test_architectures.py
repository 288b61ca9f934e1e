"""Parameters, FLOPs and bytes computed from config numbers, against published and hand values."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.architectures import Method, architectures, resolve_architecture
from cost_models.names import UnknownName

LLAMA_8B = resolve_architecture("llama-3.1-8b")


@pytest.mark.parametrize("model", architectures())
def test_computed_totals_are_within_half_a_percent_of_the_published(model: str) -> None:
    # published_parameters: the safetensors total or model card that the row's source names.
    row = architectures()[model]
    assert row.parameters == pytest.approx(row.published_parameters, rel=0.005)


@pytest.mark.parametrize(
    ("model", "active"),
    [  # as their model cards say
        ("mixtral-8x7b", 12.9e9),
        ("mixtral-8x22b", 39e9),
        ("deepseek-v3", 37e9),
        ("qwen-3-30b-a3b", 3.3e9),
        ("qwen-3-235b-a22b", 22e9),
        ("grok-2", 115e9),
    ],
)
def test_computed_active_parameters_agree_with_the_model_card(model: str, active: float) -> None:
    assert resolve_architecture(model).active_parameters == pytest.approx(active, rel=0.025)


def test_the_parameters_of_llama_8b_by_hand() -> None:
    # embeddings 2 x 128256 x 4096 = 1,050,673,152; a layer: queries and output 2 x 4096 x 4096,
    # keys and values 2 x 4096 x 1024, feed-forward 3 x 4096 x 14336, norms 2 x 4096
    # = 218,112,000; 32 layers 6,979,584,000; last norm 4,096. Sum 8,030,261,248.
    assert LLAMA_8B.parameters == 8_030_261_248


def test_flops_of_a_token_by_hand() -> None:
    # Products: 2 x (8,030,261,248 - 525,336,576 looked up) = 15,009,849,344.
    # Attention: 32 layers x 2 products x 2 x 4096 wide x 4096 tokens (half of 8192)
    # = 2,147,483,648.
    assert LLAMA_8B.forward_flops_per_token(8192) == 17_157_332_992
    assert LLAMA_8B.training_flops_per_token(8192, Method.FULL) == 3 * 17_157_332_992
    # Frozen weights get no gradient: 2 x 15,009,849,344 + 3 x 2,147,483,648.
    assert LLAMA_8B.training_flops_per_token(8192, Method.LORA) == 36_462_149_632


def test_bytes_of_a_token_in_the_cache_by_hand() -> None:
    # Grouped: 32 layers x 2 x 8 heads x 128 x 2 bytes.
    assert LLAMA_8B.kv_bytes_per_token("bf16") == 131_072
    assert LLAMA_8B.kv_bytes_per_token("fp8") == 65_536
    # Latent: 61 layers x (512 + 64) x 2 bytes.
    assert resolve_architecture("deepseek-v3").kv_bytes_per_token("bf16") == 70_272


def test_windowed_layers_keep_and_attend_to_no_more_than_their_window() -> None:
    # gpt-oss-20b: 12 of 24 layers see 128 tokens. 2 x 8 x 64 x 2 bytes = 2,048 a layer and token.
    row = resolve_architecture("gpt-oss-20b")
    assert row.kv_bytes(1024, "bf16") == 2048 * (12 * 1024 + 12 * 128)
    assert row.kv_bytes(64, "bf16") == 2048 * 24 * 64
    everywhere = replace(row, windowed_layers=0)
    assert row.forward_flops_per_token(8192) < everywhere.forward_flops_per_token(8192)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "meta-llama/Llama-3.1-8B", "LLAMA-3.1-8B"])
def test_a_model_answers_to_its_id_and_its_hub_name(name: str) -> None:
    assert resolve_architecture(name) is LLAMA_8B


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        resolve_architecture("lama-3.1-8b")
    assert caught.value.nearest[0] == "llama-3.1-8b"


@given(st.sampled_from(sorted(architectures())), st.integers(1, 131_072))
def test_training_costs_three_forward_passes_and_adapters_fewer(model: str, length: int) -> None:
    row = architectures()[model]
    full = row.training_flops_per_token(length, Method.PRETRAIN)
    assert full == pytest.approx(3 * row.forward_flops_per_token(length))
    assert 2 / 3 * full <= row.training_flops_per_token(length, Method.QLORA) < full
