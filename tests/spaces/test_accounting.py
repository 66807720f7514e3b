"""Counts by hand on small models, sums of parts, FLOPs against enumeration, memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.spaces.accounting import count, flops_per_token, memory_bytes, train_flops
from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN
from moe_search.spaces.mixers import (
    CompressedAttention,
    ConvolutionalAttention,
    GatedDeltaNet,
    GroupedQueryAttention,
    KimiDeltaAttention,
    LatentAttention,
    LightningAttention,
    Mamba2,
    SparseIndexer,
    TokenMixer,
    causal_keys,
)
from moe_search.spaces.presets import published, published_names

GQA = GroupedQueryAttention(n_heads=4, n_kv_heads=2, head_dim=8, qk_norm=True)
MOE = MoEFFN(n_experts=6, top_k=2, d_expert=24, n_shared_experts=1)
TINY = Architecture(
    d_model=32,
    vocab_size=100,
    seq_len=16,
    layers=(Layer(mixer=GQA, ffn=DenseFFN(d_ff=80)), Layer(mixer=GQA, ffn=MOE)),
)


def test_parameters_by_hand() -> None:
    counted = count(TINY)
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 2 * 8
    expert, router, norms = 3 * 32 * 24, 6 * 32, 2 * 32
    dense, sparse = counted.layers
    assert (dense.attention, dense.dense, dense.norms) == (attention, 3 * 32 * 80, norms)
    assert (sparse.router, sparse.experts, sparse.shared) == (router, 6 * expert, expert)
    assert sparse.parameters == attention + router + 7 * expert + norms
    assert sparse.active == attention + router + 3 * expert + norms
    assert counted.embedding == counted.head == 3200
    assert counted.n_total_non_embedding == dense.parameters + sparse.parameters + 32
    assert counted.n_total == counted.n_total_non_embedding + 6400
    assert counted.n_active == counted.n_total - 4 * expert


def test_tied_embeddings_are_counted_once() -> None:
    tied, untied = count(TINY.replace(tied_embeddings=True)), count(TINY)
    assert tied.n_total == untied.n_total - 3200
    assert tied.head == 0
    assert tied.n_total_non_embedding == untied.n_total_non_embedding


@pytest.mark.parametrize("name", published_names())
def test_parts_sum_to_the_whole(name: str) -> None:
    architecture = published(name)
    counted = count(architecture)
    for layer in counted.layers:
        parts = layer.model_dump(exclude={"parameters", "active"})
        assert sum(parts.values()) == layer.parameters
        assert layer.active <= layer.parameters
    outside = counted.n_total_non_embedding - sum(layer.parameters for layer in counted.layers)
    assert outside >= counted.final_norm
    flops = flops_per_token(architecture)
    parts_of_flops = flops.model_dump(exclude={"forward", "train", "attention_scores"})
    assert sum(parts_of_flops.values()) == pytest.approx(flops.forward)


def test_flops_by_hand() -> None:
    flops = flops_per_token(TINY)
    projections, scores = 2 * (2 * 32 * 32 + 2 * 32 * 16), 4 * 32 * (16 + 1) / 2
    assert flops.attention == 2 * (projections + scores)
    assert flops.attention_scores == 2 * scores
    assert flops.router == 2 * 6 * 32
    assert flops.experts == 2 * 2 * 3 * 32 * 24
    assert flops.shared == 2 * 3 * 32 * 24
    assert flops.dense == 2 * 3 * 32 * 80
    assert flops.head == 2 * 32 * 100
    assert flops.train == 3 * flops.forward
    assert train_flops(TINY, 1000) == 1000 * flops.train


def test_flops_approach_two_per_parameter_for_short_sequences() -> None:
    counted, flops = count(TINY), flops_per_token(TINY, seq_len=1)
    assert flops.forward == pytest.approx(2 * (counted.n_active - counted.embedding), rel=0.02)


@given(seq_len=st.integers(1, 300), window=st.none() | st.integers(1, 400))
def test_causal_keys_is_the_mean_over_positions(seq_len: int, window: int | None) -> None:
    seen = [min(position, window or position) for position in range(1, seq_len + 1)]
    assert causal_keys(seq_len, window) == pytest.approx(sum(seen) / seq_len)


MIXERS: list[TokenMixer] = [
    GQA,
    GQA.replace(window=8),
    GQA.replace(indexer=SparseIndexer(n_heads=2, head_dim=4, top_k=8)),
    LatentAttention(n_heads=4, query_rank=10, kv_rank=16, nope_dim=8, rope_dim=4, value_dim=8),
    CompressedAttention(n_heads=4, head_dim=8, query_rank=10, output_groups=2, output_rank=6, window=8),
    CompressedAttention(
        n_heads=4, head_dim=8, query_rank=10, output_groups=2, output_rank=6, window=8, compression="heavy", rate=8
    ),
    CompressedAttention(
        n_heads=4,
        head_dim=8,
        query_rank=10,
        output_groups=2,
        output_rank=6,
        window=8,
        compression="sparse",
        rate=4,
        index_heads=2,
        index_dim=4,
        index_top_k=8,
    ),
    ConvolutionalAttention(n_heads=4, n_kv_heads=2, head_dim=8),
    GatedDeltaNet(n_key_heads=2, n_value_heads=4, key_head_dim=8, value_head_dim=8),
    KimiDeltaAttention(n_heads=4, head_dim=8),
    LightningAttention(n_heads=4, head_dim=8),
    Mamba2(n_heads=4, head_dim=8, n_groups=2, state_size=6),
]
FIXED_STATE = (GatedDeltaNet, KimiDeltaAttention, LightningAttention, Mamba2)


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: type(mixer).__name__)
def test_what_grows_with_the_sequence(mixer: TokenMixer) -> None:
    short, long = (mixer.sequence_flops(n) for n in (64, 4096))
    held = (mixer.cache(64), mixer.cache(4096))
    if isinstance(mixer, FIXED_STATE):
        assert short == long
        assert held[0] == held[1]
        return
    full = GQA.sequence_flops(4096)
    bounded = (
        isinstance(mixer, CompressedAttention) or getattr(mixer, "window", None) or getattr(mixer, "indexer", None)
    )
    assert short < long
    assert long < full / 1.5 if bounded else long >= full
    assert held[0] <= held[1]


def test_gated_output_and_reused_keys() -> None:
    assert GQA.replace(output_gate=True).matrices(32) - GQA.matrices(32) == 32 * 32
    reusing = GQA.replace(reuses_keys=True)
    assert GQA.matrices(32) - reusing.matrices(32) == 2 * 32 * 16
    assert reusing.cache(100) == 0


def test_latent_attention_caches_the_latent_only() -> None:
    deepseek = published("DeepSeek-V3").layers[0].mixer
    assert isinstance(deepseek, LatentAttention)
    assert deepseek.cache(1) == 512 + 64  # the report's figure per token and layer


def test_memory_of_training_and_inference() -> None:
    total = count(TINY).n_total
    memory = memory_bytes(TINY, batch_tokens=64)
    assert memory["weights"] == memory["gradients"] == 2 * total
    assert memory["optimizer"] == 12 * total
    assert memory["kv_cache"] == 2 * 2 * 2 * 16 * 16  # layers x bytes x (keys, values) x width x tokens
    longer = memory_bytes(TINY, batch_tokens=64, cache_tokens=48, cache_sequences=2)
    assert longer["kv_cache"] == 3 * 2 * memory["kv_cache"]
    double = memory_bytes(TINY, batch_tokens=128, gradient_bytes=4)
    assert double["activations"] == 2 * memory["activations"]
    assert double["gradients"] == 4 * total
    dense_layer = 2 * 32 + 2 * 32 + 2 * 32 + 2 * 16 - 32  # norm in and out, q, k, v, output of attention
    dense_layer += 32 + 2 * 32 + 3 * 80
    assert memory["activations"] > 2 * 64 * dense_layer


@pytest.mark.parametrize("name", ["Mixtral-8x7B", "DeepSeek-V3", "Qwen3-Next-80B-A3B", "Nemotron-3-Nano-30B-A3B"])
def test_memory_is_positive_everywhere(name: str) -> None:
    memory = memory_bytes(published(name), batch_tokens=4096)
    assert set(memory) == {"weights", "gradients", "optimizer", "activations", "kv_cache"}
    assert all(value > 0 for value in memory.values())
