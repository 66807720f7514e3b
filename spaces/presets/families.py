"""What the table of published models does not say: each model's ``model_type`` and the sizes of its mixer.

Together with a row of the table this gives a ``config.json``, which :mod:`moe_search.spaces.huggingface` reads. Values
are those of the released configs.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

SMALL_LATENT = {
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
"""Latent attention of DeepSeek-V2-Lite, with queries projected directly."""
LARGE_LATENT = {**SMALL_LATENT, "q_lora_rank": 1536}
"""Latent attention of DeepSeek-V2, V3 and Kimi."""
INDEXER = {"index_n_heads": 32, "index_head_dim": 128, "index_topk": 2048}
DELTA_NET = {"linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128}
COMPRESSED = {"sliding_window": 128, "o_lora_rank": 1024, "index_n_heads": 64, "index_head_dim": 128, "hc_mult": 4}
MAMBA = {"mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128}

NANO_PATTERN = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
SUPER_PATTERN = "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"

FAMILY: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "Mixtral-8x7B": ("mixtral", {}),
        "Mixtral-8x22B": ("mixtral", {}),
        "Grok-1": ("grok-1", {}),
        "DBRX": ("dbrx", {}),
        "Phi-3.5-MoE": ("phimoe", {"attention_bias": True, "lm_head_bias": True}),
        "DeepSeekMoE-16B": ("deepseek", {}),
        "DeepSeek-V2-Lite": ("deepseek_v2", SMALL_LATENT),
        "DeepSeek-V2": ("deepseek_v2", LARGE_LATENT),
        "DeepSeek-V3": ("deepseek_v3", LARGE_LATENT),
        "DeepSeek-V4-Flash": (
            "deepseek_v4",
            {
                **COMPRESSED,
                "q_lora_rank": 1024,
                "o_groups": 8,
                "index_topk": 512,
                "compress_ratios": [0, 0, *[4, 128] * 20, 4],
            },
        ),
        "DeepSeek-V4-Pro": (
            "deepseek_v4",
            {
                **COMPRESSED,
                "q_lora_rank": 1536,
                "o_groups": 16,
                "index_topk": 1024,
                "compress_ratios": [128, 128, *[4, 128] * 29, 4],
            },
        ),
        "Qwen1.5-MoE-A2.7B": ("qwen2_moe", {}),
        "Qwen3-30B-A3B": ("qwen3_moe", {"norm_topk_prob": True}),
        "Qwen3-235B-A22B": ("qwen3_moe", {"norm_topk_prob": True}),
        "Qwen3-Next-80B-A3B": ("qwen3_next", {**DELTA_NET, "linear_num_value_heads": 32}),
        "Qwen3.5-397B-A17B": ("qwen3_5_moe_text", {**DELTA_NET, "linear_num_value_heads": 64}),
        "OLMoE-1B-7B": ("olmoe", {}),
        "Ling-lite": ("bailing_moe", {"norm_topk_prob": True}),
        "Ling-plus": ("bailing_moe", {"norm_topk_prob": True}),
        "Ling-mini-2.0": ("bailing_moe_v2", {"use_qk_norm": True}),
        "Ling-flash-2.0": ("bailing_moe_v2", {"use_qk_norm": True}),
        "Ling-1T": ("bailing_moe_v2", {"use_qk_norm": True}),
        "Moonlight-16B-A3B": ("deepseek_v3", SMALL_LATENT),
        "Kimi-K2": ("kimi_k2", LARGE_LATENT),
        "Kimi-K3": (
            "kimi_linear",
            {
                **LARGE_LATENT,
                "mla_use_output_gate": True,
                "latent_moe_use_norm": True,
                "linear_attn_config": {
                    "num_heads": 96,
                    "head_dim": 128,
                    "use_full_rank_gate": True,
                    "full_attn_layers": [*range(4, 93, 4), 93],
                },
            },
        ),
        "gpt-oss-20b": ("gpt_oss", {"sliding_window": 128}),
        "gpt-oss-120b": ("gpt_oss", {"sliding_window": 128}),
        "Granite-3.0-1B-A400M": ("granitemoe", {}),
        "Granite-3.0-3B-A800M": ("granitemoe", {}),
        "GLM-4.5": ("glm4_moe", {"attention_bias": True, "use_qk_norm": True}),
        "GLM-4.5-Air": ("glm4_moe", {"attention_bias": True}),
        "GLM-5": (
            "glm_moe_dsa",
            {
                **INDEXER,
                "q_lora_rank": 2048,
                "kv_lora_rank": 512,
                "qk_nope_head_dim": 192,
                "qk_rope_head_dim": 64,
                "v_head_dim": 256,
            },
        ),
        "MiniMax-M1 (Text-01)": ("minimax_m1", {"attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10}),
        "MiniMax-M2": ("minimax_m2", {}),
        "MiniMax-M3": (
            "minimax_m3_vl_text",
            {
                "sparse_attention_config": {"sparse_attention_freq": [0, 0, 0, *[1] * 57]},
                "moe_layer_freq": [0, 0, 0, *[1] * 57],
            },
        ),
        "dots.llm1": ("dots1", {"norm_topk_prob": True}),
        "Hunyuan-Large": ("hunyuan", {"use_cla": True, "cla_share_factor": 2, "use_qk_norm": True}),
        "Hunyuan-A13B": ("hunyuan_v1_moe", {}),
        "Sigma-MoE-Tiny": ("qwen3_moe", {}),
        "ZAYA1-8B": ("zaya", {"router_hidden_size": 256}),
        "Llama-4-Scout": ("llama4_text", {"attention_chunk_size": 8192}),
        "Llama-4-Maverick": ("llama4_text", {"attention_chunk_size": 8192, "interleave_moe_layer_step": 2}),
        "Nemotron-3-Nano-30B-A3B": (
            "nemotron_h",
            {**MAMBA, "mamba_num_heads": 64, "hybrid_override_pattern": NANO_PATTERN},
        ),
        "Nemotron-3-Super-120B-A12B": (
            "nemotron_h",
            {**MAMBA, "mamba_num_heads": 128, "hybrid_override_pattern": SUPER_PATTERN},
        ),
    }
)
"""``model_type`` and further fields of every row. Sigma-MoE-Tiny has no public config; its layout is Qwen3-MoE's. Which
layers of MiniMax-M3 are sparse is not known; all but its dense ones are taken."""
