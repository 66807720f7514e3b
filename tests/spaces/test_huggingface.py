"""Configs of every supported family against the model that transformers builds, parameter by parameter."""

import json
import random
from typing import Any

import pytest

from moe_search.spaces.accounting import count
from moe_search.spaces.architecture import Architecture, MoEFFN
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.huggingface import FAMILIES, architecture_from_config

BASE = {
    "vocab_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DEEPSEEK = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 12,
    "n_group": 1,
}
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "num_key_value_heads": 4}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
LOCAL = {"num_local_experts": 6, "num_experts_per_tok": 2}
GQA = {"num_key_value_heads": 2, "head_dim": 8}
BOTH = (True, False)

# For each model type: fixed fields, then fields with the values they may take.
CASES: dict[str, tuple[dict[str, Any], dict[str, tuple[Any, ...]]]] = {
    "llama": (GQA, {"attention_bias": BOTH, "mlp_bias": BOTH, "num_key_value_heads": (1, 2, 4)}),
    "mistral": (GQA, {"head_dim": (None, 8, 12)}),
    "qwen2": ({"num_key_value_heads": 2}, {"use_sliding_window": BOTH}),
    "qwen3": (GQA, {"attention_bias": BOTH, "head_dim": (8, 16)}),
    "mixtral": ({"num_key_value_heads": 2} | LOCAL, {"head_dim": (None, 12), "num_local_experts": (2, 5)}),
    "granitemoe": ({"num_key_value_heads": 2} | LOCAL, {"attention_bias": BOTH}),
    "phimoe": ({"num_key_value_heads": 2} | LOCAL, {"attention_bias": BOTH, "lm_head_bias": BOTH}),
    "olmoe": (EXPERTS, {"num_key_value_heads": (2, 4), "attention_bias": BOTH}),
    "qwen2_moe": (
        EXPERTS | {"num_key_value_heads": 2},
        {
            "shared_expert_intermediate_size": (20, 40),
            "decoder_sparse_step": (1, 2),
            "mlp_only_layers": ([], [1]),
            "qkv_bias": BOTH,
        },
    ),
    "qwen3_moe": (
        EXPERTS | GQA,
        {"decoder_sparse_step": (1, 2), "mlp_only_layers": ([], [0, 3]), "attention_bias": BOTH},
    ),
    "qwen3_next": (
        EXPERTS | GQA | DELTA,
        {"shared_expert_intermediate_size": (20, 40), "linear_conv_kernel_dim": (2, 4), "attention_bias": BOTH},
    ),
    "qwen3_5_moe_text": (EXPERTS | GQA | DELTA, {"shared_expert_intermediate_size": (20, 40)}),
    "gpt_oss": (GQA | LOCAL, {"attention_bias": BOTH}),
    "llama4_text": (
        GQA | LOCAL | {"intermediate_size_mlp": 40},
        {"interleave_moe_layer_step": (1, 2), "attention_bias": BOTH},
    ),
    "hunyuan_v1_moe": (GQA | {"num_experts": 6, "moe_topk": 2}, {"attention_bias": BOTH}),
    "ernie4_5_moe": (
        {"num_key_value_heads": 2, "moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 12},
        {"moe_num_shared_experts": (0, 2), "moe_layer_interval": (1, 2), "moe_layer_end_index": (-1, 2)},
    ),
    "dots1": (DEEPSEEK | GQA, {"first_k_dense_replace": (0, 1), "attention_bias": BOTH}),
    "glm4_moe": (DEEPSEEK | GQA, {"first_k_dense_replace": (1, 2), "attention_bias": BOTH, "use_qk_norm": BOTH}),
    "deepseek_v2": (
        DEEPSEEK | LATENT,
        {"q_lora_rank": (None, 10), "first_k_dense_replace": (0, 1), "attention_bias": BOTH},
    ),
    "deepseek_v3": (
        DEEPSEEK | LATENT,
        {"q_lora_rank": (None, 10), "first_k_dense_replace": (0, 1), "attention_bias": BOTH},
    ),
    "deepseek_v32": (
        DEEPSEEK | LATENT | {"q_lora_rank": 10, "index_n_heads": 3, "index_head_dim": 8, "index_topk": 4},
        {"first_k_dense_replace": (0, 1)},
    ),
    "glm_moe_dsa": (
        DEEPSEEK | LATENT | {"q_lora_rank": 10, "index_n_heads": 3, "index_head_dim": 8, "index_topk": 4},
        {"first_k_dense_replace": (0, 1), "indexer_types": (["full"] * 4, ["full", "shared", "full", "shared"])},
    ),
    "minimax": (
        {"num_key_value_heads": 2, "layer_types": ["linear_attention", "full_attention"] * 2} | LOCAL,
        {"head_dim": (8, 12)},
    ),
    "minimax_m2": (GQA | LOCAL, {"num_key_value_heads": (1, 2)}),
    "minimax_m3_vl_text": (
        GQA
        | LOCAL
        | {"dense_intermediate_size": 40, "shared_intermediate_size": 20, "index_n_heads": 3, "index_head_dim": 8},
        {
            "layer_types": (["full_attention"] * 4, ["full_attention", "minimax_m3_sparse"] * 2),
            "mlp_layer_types": (["sparse"] * 4, ["dense", "sparse", "sparse", "sparse"]),
        },
    ),
    "kimi_linear": (
        LATENT
        | {
            "num_experts": 6,
            "num_experts_per_token": 2,
            "moe_intermediate_size": 12,
            "linear_head_dim": 8,
            "linear_num_heads": 3,
        },
        {
            "q_lora_rank": (None, 10),
            "num_shared_experts": (1, 2),
            "layer_types": (["linear_attention", "full_attention"] * 2,),
        },
    ),
    "nemotron_h": (
        GQA
        | DEEPSEEK
        | {
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "ssm_state_size": 6,
            "moe_shared_expert_intermediate_size": 20,
        },
        {
            "layers_block_type": (["linear_attention", "moe", "full_attention", "mlp"],),
            "moe_latent_size": (None, 16),
            "use_conv_bias": BOTH,
            "use_bias": BOTH,
        },
    ),
    "deepseek_v4": (
        DEEPSEEK
        | {"head_dim": 16, "q_lora_rank": 10, "o_groups": 2, "o_lora_rank": 6, "index_n_heads": 3, "index_head_dim": 8}
        | {"index_topk": 4, "hc_mult": 3, "sliding_window": 8, "num_key_value_heads": 1},
        {
            "layer_types": (
                [
                    "sliding_attention",
                    "compressed_sparse_attention",
                    "heavily_compressed_attention",
                    "sliding_attention",
                ],
                ["heavily_compressed_attention"] * 4,
            )
        },
    ),
    "zaya": (
        {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_experts": 6,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 12,
        },
        {"router_hidden_size": (8, 16), "cca_time0": (2, 3), "cca_time1": (2, 4)},
    ),
    "dbrx": (
        {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64},
        {
            "attn_config": ({"kv_n_heads": 2, "rope_theta": 1e4}, {"kv_n_heads": 4, "rope_theta": 1e4}),
            "ffn_config": ({"ffn_hidden_size": 12, "moe_num_experts": 6, "moe_top_k": 2},),
        },
    ),
}
NEVER_TIED = {"dbrx", "kimi_linear", "nemotron_h"}
"""Families whose transformers model keeps two matrices whatever the config says."""
NOT_IN_TRANSFORMERS = {
    "bailing_moe", "bailing_moe_v2", "deepseek", "grok-1", "hunyuan", "kimi_k2", "minimax_m1", "minimax_text_01",
}  # fmt: skip


def _variants(model_type: str) -> list[dict[str, Any]]:
    """Two variants a family, drawn with a fixed seed, one with tied embeddings."""
    fixed, free = CASES[model_type]
    draw = random.Random(model_type)
    base = {} if model_type == "dbrx" else BASE
    variants = []
    for tied in (False, model_type not in NEVER_TIED):
        chosen = {name: draw.choice(values) for name, values in free.items()}
        tied_field = {} if model_type == "dbrx" else {"tie_word_embeddings": tied}
        variants.append({**base, **fixed, **chosen, **tied_field, "vocab_size": draw.choice((64, 96))})
    return variants


def _built(model_type: str, values: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the config.json that transformers would save, and the parameters of the model it builds."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this transformers ({transformers.__version__}) has no {model_type}")
    config = transformers.CONFIG_MAPPING[model_type](**values)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    # The balancing bias is a buffer, not a parameter, even where a family (ERNIE) registers it as a frozen parameter.
    parameters = {id(p): p for name, p in model.named_parameters() if "e_score_correction_bias" not in name}
    return json.loads(config.to_json_string(use_diff=False)), sum(p.numel() for p in parameters.values())


@pytest.mark.parametrize("model_type", sorted(CASES))
def test_counts_equal_the_transformers_model(model_type: str) -> None:
    for values in _variants(model_type):
        config, expected = _built(model_type, values)
        architecture = architecture_from_config(config)
        assert count(architecture).n_total == expected, values
        assert Architecture.model_validate_json(architecture.model_dump_json()) == architecture


def test_every_family_is_tested() -> None:
    assert set(CASES) | NOT_IN_TRANSFORMERS == set(FAMILIES)


MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 128,
}


def test_unknown_model_type_lists_the_known() -> None:
    with pytest.raises(InvalidInputError, match=r"model_type 'gpt2' is not known.*mixtral"):
        architecture_from_config({**MIXTRAL, "model_type": "gpt2"})
    with pytest.raises(InvalidInputError, match="model_type is missing"):
        architecture_from_config({"hidden_size": 3})


@pytest.mark.parametrize("field", ["hidden_size", "num_local_experts", "vocab_size", "intermediate_size"])
def test_missing_field_is_named(field: str) -> None:
    config = {name: value for name, value in MIXTRAL.items() if name != field}
    with pytest.raises(InvalidInputError, match=r"config.json \(mixtral\)") as caught:
        architecture_from_config(config)
    assert field in str(caught.value) or field == "num_local_experts"  # which has synonyms


@pytest.mark.parametrize("value", ["64", 1.5, True, -1])
def test_field_of_the_wrong_type_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="hidden_size is"):
        architecture_from_config({**MIXTRAL, "hidden_size": value})


def test_impossible_config_says_why() -> None:
    with pytest.raises(InvalidInputError, match=r"top_k is 9 but the layer has 4 experts.*top_k = 4"):
        architecture_from_config({**MIXTRAL, "num_experts_per_tok": 9})
    with pytest.raises(InvalidInputError, match="n_kv_heads is 3 but does not divide n_heads = 4"):
        architecture_from_config({**MIXTRAL, "num_key_value_heads": 3})


def test_layer_lists_have_to_fit() -> None:
    config = {**MIXTRAL, "model_type": "minimax", "layer_types": ["full_attention"] * 3}
    with pytest.raises(InvalidInputError, match=r"num_hidden_layers is 2 but the layer lists have 3"):
        architecture_from_config(config)


def test_text_part_of_a_multimodal_config() -> None:
    text = {**MIXTRAL, "model_type": "llama4_text", "intermediate_size_mlp": 128}
    wrapped = {"model_type": "llama4", "vision_config": {"hidden_size": 5}, "text_config": text}
    assert architecture_from_config(wrapped) == architecture_from_config(text)
    del text["model_type"]  # some released files name the family outside only
    assert architecture_from_config(wrapped).moe_layers[0].n_shared_experts == 1


def test_every_second_layer_has_experts() -> None:
    config = {**MIXTRAL, "model_type": "llama4_text", "intermediate_size_mlp": 128, "interleave_moe_layer_step": 2}
    dense, sparse = architecture_from_config(config).layers
    assert not isinstance(dense.ffn, MoEFFN)
    assert isinstance(sparse.ffn, MoEFFN)


def test_sequence_length_is_capped_for_quoting_flops() -> None:
    assert architecture_from_config({**MIXTRAL, "max_position_embeddings": 131_072}).seq_len == 4096
    assert architecture_from_config({**MIXTRAL, "max_position_embeddings": 512}).seq_len == 512
