"""Families that mix softmax attention with other token mixers, or change the residual stream."""

from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, RouterMLP
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.huggingface import parts
from moe_search.spaces.huggingface.fields import Fields
from moe_search.spaces.mixers import (
    CompressedAttention,
    ConvolutionalAttention,
    GatedDeltaNet,
    KimiDeltaAttention,
    LightningAttention,
    Mamba2,
    Mixer,
)


def qwen3_next(config: Fields) -> Architecture:
    """Qwen3-Next and Qwen3.5-MoE: gated delta nets, every fourth layer gated attention; gated shared expert."""
    full = parts.attention(config, qk_norm=True, output_gate=True)
    linear = GatedDeltaNet(
        n_key_heads=config.integer("linear_num_key_heads"),
        n_value_heads=config.integer("linear_num_value_heads"),
        key_head_dim=config.integer("linear_key_head_dim"),
        value_head_dim=config.integer("linear_value_head_dim"),
        kernel=config.integer("linear_conv_kernel_dim", default=4),
    )
    step = config.integer("full_attention_interval", default=4)
    kinds = config.sequence("layer_types") or [
        "linear_attention" if (index + 1) % step else "full_attention" for index in range(config.n_layers)
    ]
    moe = parts.experts(
        config,
        width="moe_intermediate_size",
        shared_expert_gate=True,
        **parts.shared(1, config.integer("shared_expert_intermediate_size")),
    )
    dense = DenseFFN(d_ff=config.integer("intermediate_size", default=1) or 1)
    mixers: list[Mixer] = [full if kind == "full_attention" else linear for kind in kinds]
    return parts.decoder(config, parts.layers(mixers, moe, parts.every_step(config), dense))


def minimax(config: Fields) -> Architecture:
    """MiniMax-01 and M1: lightning attention, every eighth layer softmax (``attn_type_list``: 0 linear, 1 softmax)."""
    full = parts.attention(config)
    linear = LightningAttention(n_heads=full.n_heads, head_dim=full.head_dim)
    kinds = config.sequence("layer_types") or config.sequence("attn_type_list")
    if kinds is None:
        raise InvalidInputError(
            "layer_types is missing", where=f"config.json ({config.model_type})", allowed="one entry a layer"
        )
    mixers: list[Mixer] = [full if kind in ("full_attention", 1) else linear for kind in kinds]
    moe = parts.experts(config, width="intermediate_size")
    return parts.decoder(config, parts.layers(mixers, moe, [True] * len(mixers)))


def kimi_linear(config: Fields) -> Architecture:
    """Kimi Linear and the text part of Kimi-K3 (whose attention residuals, ~1 M parameters, are not counted).

    Kimi-K3 adds gates on the output of latent attention, a full-rank gate in its delta attention, and experts that work
    at ``routed_expert_hidden_size``.
    """
    linear_config = config.nested("linear_attn_config")
    delta = KimiDeltaAttention(
        n_heads=config.integer("linear_num_heads", default=linear_config.integer("num_heads", default=0)),
        head_dim=config.integer("linear_head_dim", default=linear_config.integer("head_dim", default=0)),
        kernel=config.integer(
            "linear_conv_kernel_dim", default=linear_config.integer("short_conv_kernel_size", default=4)
        ),
        full_rank_gate=linear_config.flag("use_full_rank_gate"),
    )
    latent = parts.latent_attention(config, output_gate=config.flag("mla_use_output_gate"))
    kinds = config.sequence("layer_types")
    if kinds is None:
        full = set(linear_config.sequence("full_attn_layers") or ())  # counted from 1
        kinds = ["full_attention" if index + 1 in full else "linear_attention" for index in range(config.n_layers)]
    n_shared = config.integer("num_shared_experts", "n_shared_experts", default=0)
    moe = parts.experts(
        config,
        width="moe_intermediate_size",
        latent_dim=config.optional("routed_expert_hidden_size"),
        latent_norm=config.flag("latent_moe_use_norm"),
        **parts.shared(n_shared, config.integer("moe_intermediate_size")),
    )
    mixers: list[Mixer] = [latent if kind == "full_attention" else delta for kind in kinds]
    dense = DenseFFN(d_ff=config.integer("intermediate_size"))
    blocks = parts.layers(mixers, moe, parts.first_dense(config), dense)
    return parts.decoder(config, blocks, routing=parts.SIGMOID_LOSS_FREE)


def nemotron_h(config: Fields) -> Architecture:
    """Nemotron-H: every layer is one of Mamba-2 (M), attention (*), experts (E) or MLP (-), with squared ReLU."""
    pattern = config.get("hybrid_override_pattern")
    letters = {"M": "linear_attention", "*": "full_attention", "E": "moe", "-": "mlp"}
    aliases = {"mamba": "linear_attention", "attention": "full_attention"}
    kinds = config.sequence("layers_block_type", "layer_types") or [
        letters.get(letter, letter) for letter in pattern or ""
    ]
    mlp_bias = config.flag("mlp_bias")
    shared = parts.shared(
        config.integer("n_shared_experts", default=1), config.integer("moe_shared_expert_intermediate_size", default=0)
    )
    blocks = {
        "full_attention": lambda: Layer(mixer=parts.attention(config, bias=False, output_bias=False), ffn=None),
        "linear_attention": lambda: Layer(
            mixer=Mamba2(
                n_heads=config.integer("mamba_num_heads"),
                head_dim=config.integer("mamba_head_dim"),
                n_groups=config.integer("n_groups", "mamba_n_groups"),
                state_size=config.integer("ssm_state_size"),
                kernel=config.integer("conv_kernel", "mamba_d_conv", default=4),
                convolution_bias=config.flag("use_conv_bias", "mamba_conv_bias", default=True),
                bias=config.flag("use_bias"),
            ),
            ffn=None,
        ),
        "mlp": lambda: Layer(
            mixer=None, ffn=DenseFFN(d_ff=config.integer("intermediate_size"), gated=False, bias=mlp_bias)
        ),
        "moe": lambda: Layer(
            mixer=None,
            ffn=parts.experts(
                config,
                width="moe_intermediate_size",
                gated=False,
                latent_dim=config.optional("moe_latent_size"),
                **shared,
            ),
        ),
    }
    named = [aliases.get(str(kind), str(kind)) for kind in kinds]
    unknown = sorted(set(named) - set(blocks))
    if unknown or not named:
        raise InvalidInputError(
            f"layer kinds {unknown or 'missing'}",
            where="hybrid_override_pattern",
            allowed="M, *, E and - for each layer",
        )
    built = {kind: blocks[kind]() for kind in set(named)}
    return parts.decoder(config, [built[kind] for kind in named], routing=parts.SIGMOID_LOSS_FREE)


def deepseek_v4(config: Fields) -> Architecture:
    """DeepSeek-V4: compressed attention, hyper-connections; without its multi-token-prediction layer."""
    ratios = config.sequence("compress_ratios")
    by_ratio = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}
    kinds = config.sequence("layer_types") or [by_ratio.get(ratio, "") for ratio in (ratios or ())[: config.n_layers]]
    rates = config.nested("compress_rates")
    plain = CompressedAttention(
        n_heads=config.integer("num_attention_heads"),
        head_dim=config.integer("head_dim"),
        query_rank=config.integer("q_lora_rank"),
        output_groups=config.integer("o_groups"),
        output_rank=config.integer("o_lora_rank"),
        window=config.integer("sliding_window"),
    )
    mixers = {
        "sliding_attention": plain,
        "heavily_compressed_attention": plain.replace(
            compression="heavy", rate=rates.integer("heavily_compressed_attention", default=128)
        ),
        "compressed_sparse_attention": plain.replace(
            compression="sparse",
            rate=rates.integer("compressed_sparse_attention", default=4),
            index_heads=config.integer("index_n_heads"),
            index_dim=config.integer("index_head_dim"),
            index_top_k=config.integer("index_topk"),
        ),
    }
    if not kinds or set(kinds) - set(mixers):
        raise InvalidInputError(
            f"layer_types are {sorted(set(map(str, kinds))) or 'missing'}",
            where="layer_types",
            allowed=", ".join(mixers),
        )
    width = config.integer("moe_intermediate_size")
    moe = parts.experts(
        config, width="moe_intermediate_size", **parts.shared(config.integer("n_shared_experts", default=1), width)
    )
    blocks = parts.layers([mixers[kind] for kind in kinds], moe, [True] * len(kinds))
    return parts.decoder(config, blocks, hyper_connections=config.integer("hc_mult"), routing=parts.SIGMOID_LOSS_FREE)


def zaya(config: Fields) -> Architecture:
    """ZAYA1: compressed convolutional attention, a router MLP with one output that skips, scaled residuals."""
    mixer = ConvolutionalAttention(
        n_heads=config.integer("num_attention_heads"),
        n_kv_heads=config.integer("num_key_value_heads"),
        head_dim=config.integer("head_dim"),
        channel_kernel=config.integer("cca_time0", default=2),
        head_kernel=config.integer("cca_time1", default=2),
    )
    first = parts.experts(
        config,
        width="moe_intermediate_size",
        router_mlp=RouterMLP(width=config.integer("router_hidden_size"), n_skip=1),
    )
    above = first.replace(
        router_mlp=RouterMLP(width=config.integer("router_hidden_size"), n_skip=1, carries_state=True)
    )
    moe = [first] + [above] * (config.n_layers - 1)
    blocks = parts.layers(mixer, moe, [True] * config.n_layers)
    return parts.decoder(config, blocks, residual_scaling=True, head_bias=config.flag("lm_head_bias"))
