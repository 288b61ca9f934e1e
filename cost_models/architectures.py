"""What language models are, by the numbers of their configuration files.

Parameters, FLOPs and bytes are computed from those numbers, never typed in: one row of
``data/architectures.csv`` a model. Counting follows Kaplan et al. 2020 (arXiv:2001.08361, two FLOPs
a weight and token, backward twice forward) with the attention products of Narayanan et al. 2021
(arXiv:2104.04473) at the half that causality leaves, and latent attention as in DeepSeek-V2
(arXiv:2405.04434).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path

from cost_models.accelerators import resolve_precision
from cost_models.names import find
from cost_models.tables import AtLeastOne, Count, Id, Text, Words, read_bundled, read_table


class Method(StrEnum):
    """How a model is trained: which weights move, and how the others are held."""

    PRETRAIN = "Pretrain"
    FULL = "Full"
    LORA = "Lora"
    QLORA = "Qlora"

    @property
    def adapts(self) -> bool:
        """Whether only a small adapter is trained."""
        return self in (Method.LORA, Method.QLORA)


class Attention(StrEnum):
    """How keys and values are kept."""

    GROUPED = "gqa"  # kv_heads of them; as many as heads is multi-head, one is multi-query
    LATENT = "mla"  # one compressed latent a token


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One decoder-only transformer."""

    id: Id
    layers: AtLeastOne
    hidden: AtLeastOne
    heads: AtLeastOne
    kv_heads: AtLeastOne
    head_dim: AtLeastOne
    ffn: Count  # inner width of a dense feed-forward block, or of one that runs beside the experts
    ffn_matrices: AtLeastOne = 3  # 3 where the feed-forward is gated (SwiGLU), else 2
    vocab: AtLeastOne
    tied_embeddings: bool = False
    experts: Count = 0  # routed, in each layer that has them
    active_experts: Count = 0  # of them, for one token
    expert_ffn: Count = 0
    shared_expert_ffn: Count = 0  # of what runs for every token, beside the routed
    dense_layers: Count = 0  # layers without experts, where others have them
    attention: Attention = Attention.GROUPED
    q_lora_rank: Count = 0  # latent attention only, from here
    kv_lora_rank: Count = 0
    qk_rope_dim: Count = 0
    v_head_dim: Count = 0
    window_tokens: Count = 0  # sliding window of `windowed_layers`
    windowed_layers: Count = 0
    context_tokens: AtLeastOne
    published_parameters: AtLeastOne  # to hold the computed total against
    aliases: Words = ()
    source: Text

    # All weights, embeddings and norms included; those that one token meets; and of both, those of
    # the routed experts. Computed once: every estimate asks for them.
    parameters: int = field(init=False, compare=False)
    active_parameters: int = field(init=False, compare=False)
    expert_parameters: int = field(init=False, compare=False)
    active_expert_parameters: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        one_of_each = self._moe_layers * self.ffn_matrices * self.hidden * self.expert_ffn
        for name, experts in (("", self.experts), ("active_", self.active_experts)):
            routed = one_of_each * experts
            object.__setattr__(self, f"{name}expert_parameters", routed)
            object.__setattr__(self, f"{name}parameters", self._always_active() + routed)

    @property
    def multiplied_parameters(self) -> int:
        """Weights that one token is multiplied with: looking an embedding up is no product."""
        lookup = 0 if self.tied_embeddings else self.vocab * self.hidden
        return self.active_parameters - lookup

    def attention_flops_per_token(self, attended_tokens: float) -> float:
        """Score and value products of one token, forward, over ``attended_tokens`` before it."""
        windowed = min(attended_tokens, self.window_tokens) * self.windowed_layers
        positions = attended_tokens * (self.layers - self.windowed_layers) + windowed
        return 2.0 * positions * self.heads * (self._qk_dim + self._v_dim)

    def forward_flops_per_token(self, context: float) -> float:
        """Forward FLOPs, mean over the tokens of a sequence of ``context`` tokens.

        Two a weight, and the attention products over the half of the sequence that stands before.
        """
        return 2.0 * self.multiplied_parameters + self.attention_flops_per_token(context / 2)

    def training_flops_per_token(
        self, sequence_length: float, method: Method = Method.PRETRAIN
    ) -> float:
        """Useful FLOPs for one trained token: recomputed activations are not counted.

        Three times the forward pass; adapters need no gradients of the frozen weights, so their
        products count twice, those of attention three times.
        """
        weights = 2.0 * self.multiplied_parameters * (2 if method.adapts else 3)
        return weights + 3.0 * self.attention_flops_per_token(sequence_length / 2)

    def kv_bytes_per_token(self, precision: str) -> float:
        """Bytes that one token adds to the key-value cache, all layers."""
        return self.layers * self._kv_values_per_layer * resolve_precision(precision).bytes

    def kv_bytes(self, context: float, precision: str) -> float:
        """Bytes of one sequence's cache at ``context`` tokens: windowed layers keep a window."""
        kept = min(context, self.window_tokens) if self.windowed_layers else 0.0
        tokens = context * (self.layers - self.windowed_layers) + kept * self.windowed_layers
        return tokens * self._kv_values_per_layer * resolve_precision(precision).bytes

    @property
    def _moe_layers(self) -> int:
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def embedding_parameters(self) -> int:
        """The lookup and the output head, one matrix where they are tied."""
        return self.vocab * self.hidden * (1 if self.tied_embeddings else 2)

    def _always_active(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        dense = (self.layers - self._moe_layers) * self.ffn_matrices * self.hidden * self.ffn
        beside = self.ffn_matrices * self.hidden * self.shared_expert_ffn
        router = self.hidden * self.experts
        attention = self.layers * self._attention_parameters
        return (
            self.embedding_parameters
            + norms
            + dense
            + self._moe_layers * (beside + router)
            + attention
        )

    @property
    def _attention_parameters(self) -> int:
        if self.attention is Attention.LATENT:
            return self._latent_parameters
        queries = self.hidden * self.heads * self.head_dim
        return 2 * queries + 2 * self.hidden * self.kv_heads * self.head_dim

    @property
    def _latent_parameters(self) -> int:
        query_width = self.heads * self._qk_dim
        if self.q_lora_rank:
            queries = self.q_lora_rank * (self.hidden + query_width)
        else:
            queries = self.hidden * query_width
        latent = self.hidden * (self.kv_lora_rank + self.qk_rope_dim)
        expand = self.kv_lora_rank * self.heads * (self.head_dim + self._v_dim)
        return queries + latent + expand + self.heads * self._v_dim * self.hidden

    @property
    def _qk_dim(self) -> int:
        return self.head_dim + self.qk_rope_dim

    @property
    def _v_dim(self) -> int:
        return self.v_head_dim or self.head_dim

    @property
    def _kv_values_per_layer(self) -> int:
        if self.attention is Attention.LATENT:
            return self.kv_lora_rank + self.qk_rope_dim
        return 2 * self.kv_heads * self.head_dim


def read_architectures(path: Path) -> tuple[Architecture, ...]:
    """Rows of a file of the same columns; `TableError` says everything that is wrong with it."""
    return read_table(path, Architecture, unique=("id",))


@cache
def architectures() -> Mapping[str, Architecture]:
    """The catalog by id."""
    rows = read_bundled("architectures.csv", Architecture, unique=("id",))
    return {row.id: row for row in rows}


def resolve_architecture(name: str) -> Architecture:
    """By id or alias, whatever the case; else `UnknownName` with the nearest names."""
    return find("model", name, architectures(), _aliases())


@cache
def _aliases() -> Mapping[str, str]:
    return {alias: row.id for row in architectures().values() for alias in row.aliases}
