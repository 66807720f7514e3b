"""Families with softmax attention in every layer. Each function's sizes are those of the model in ``transformers``."""

from moe_search.spaces.architecture import Architecture, DenseFFN, Layer
from moe_search.spaces.huggingface import parts
from moe_search.spaces.huggingface.fields import Fields
from moe_search.spaces.mixers import LatentAttention, Mixer, SparseIndexer


def llama(config: Fields) -> Architecture:
    """LLaMA and Mistral: dense, SwiGLU."""
    mixer = parts.attention(config, window=config.optional("sliding_window"))
    ffn = DenseFFN(d_ff=config.integer("intermediate_size"), bias=config.flag("mlp_bias"))
    return parts.decoder(config, [Layer(mixer=mixer, ffn=ffn)] * config.n_layers)


def _late_windows(config: Fields) -> list[str]:
    """Qwen: from ``max_window_layers`` up a sliding window, if switched on."""
    kinds = config.sequence("layer_types")
    if kinds is not None:
        return [str(kind) for kind in kinds]
    first = config.integer("max_window_layers", default=0) if config.flag("use_sliding_window") else config.n_layers
    return ["sliding_attention" if index >= first else "full_attention" for index in range(config.n_layers)]


def qwen2(config: Fields) -> Architecture:
    """Qwen2: dense, biases on queries, keys and values."""
    mixers = parts.windowed(config, parts.attention(config, bias=True, output_bias=False), _late_windows(config))
    ffn = DenseFFN(d_ff=config.integer("intermediate_size"))
    return parts.decoder(config, [Layer(mixer=mixer, ffn=ffn) for mixer in mixers])


def qwen3(config: Fields) -> Architecture:
    """Qwen3: dense, norms on queries and keys."""
    mixer = parts.attention(config, head_dim=config.integer("head_dim", default=128), qk_norm=True)
    ffn = DenseFFN(d_ff=config.integer("intermediate_size"))
    return parts.decoder(
        config, [Layer(mixer=mixer, ffn=ffn) for mixer in parts.windowed(config, mixer, _late_windows(config))]
    )


def mixtral(config: Fields) -> Architecture:
    """Mixtral: the experts' width is ``intermediate_size``; gates are renormalised."""
    mixer = parts.attention(config, window=config.optional("sliding_window"))
    moe = parts.experts(config, width="intermediate_size")
    return parts.decoder(config, parts.layers(mixer, moe, [True] * config.n_layers))


def grok(config: Fields) -> Architecture:
    """Grok-1 (the released JAX code): Mixtral's layout with a second norm after each part."""
    return mixtral(config).replace(post_norm=True)


def phimoe(config: Fields) -> Architecture:
    """Phi-3.5-MoE: LayerNorm with biases, biases in attention and head."""
    return mixtral(config).replace(norm_bias=True, head_bias=config.flag("lm_head_bias"))


def granitemoe(config: Fields) -> Architecture:
    """Granite 3 MoE: Mixtral's layout, softmax over the chosen logits."""
    return mixtral(config).replace(routing=parts.TOPK_SOFTMAX)


def minimax_m2(config: Fields) -> Architecture:
    """MiniMax-M2: norms over all query and all key heads together; sigmoid router with selection bias."""
    mixer = parts.attention(config, qk_norm=config.flag("use_qk_norm", default=True), qk_norm_whole=True)
    moe = parts.experts(config, width="intermediate_size")
    blocks = parts.layers(mixer, moe, [True] * config.n_layers)
    return parts.decoder(config, blocks, routing=parts.SIGMOID_LOSS_FREE)


def minimax_m3(config: Fields) -> Architecture:
    """MiniMax-M3 (text part): block-sparse layers choose key blocks with an indexer; shared expert."""
    sparse_config = config.nested("sparse_attention_config")
    plain = parts.attention(config, qk_norm=True)
    kinds = config.sequence("layer_types")
    if kinds is None:
        flags = sparse_config.sequence("sparse_attention_freq") or [0] * config.n_layers
        kinds = ["minimax_m3_sparse" if flag else "full_attention" for flag in flags]
    block = config.integer("index_block_size", default=sparse_config.integer("sparse_block_size", default=128))
    chosen = config.integer("index_topk_blocks", default=sparse_config.integer("sparse_topk_blocks", default=16))
    indexer = SparseIndexer(
        n_heads=config.integer("index_n_heads", default=sparse_config.integer("sparse_num_index_heads", default=4)),
        head_dim=config.integer("index_head_dim", default=sparse_config.integer("sparse_index_dim", default=128)),
        top_k=block * chosen,
    )
    indexed = plain.replace(indexer=indexer)
    mixers = [indexed if kind == "minimax_m3_sparse" else plain for kind in kinds]
    moe = parts.experts(
        config, width="intermediate_size", **parts.shared(1, config.integer("shared_intermediate_size"))
    )
    dense = DenseFFN(d_ff=config.integer("dense_intermediate_size"))
    blocks = parts.layers(mixers, moe, parts.first_dense(config), dense)
    return parts.decoder(config, blocks, routing=parts.SIGMOID_LOSS_FREE)


def qwen2_moe(config: Fields) -> Architecture:
    """Qwen1.5-MoE and Qwen2-MoE: one wide shared expert behind a sigmoid gate."""
    mixer = parts.attention(config, bias=config.flag("qkv_bias", default=True), output_bias=False)
    width = config.integer("shared_expert_intermediate_size")
    moe = parts.experts(config, width="moe_intermediate_size", shared_expert_gate=True, **parts.shared(1, width))
    dense = DenseFFN(d_ff=config.integer("intermediate_size"))
    blocks = parts.layers(mixer, moe, parts.every_step(config), dense)
    routing = parts.SOFTMAX.replace(normalise_gates=config.flag("norm_topk_prob"))
    return parts.decoder(config, blocks, routing=routing)


def qwen3_moe(config: Fields) -> Architecture:
    """Qwen3-MoE: norms on queries and keys, no shared expert."""
    mixer = parts.attention(config, qk_norm=True)
    moe = parts.experts(config, width="moe_intermediate_size")
    dense = DenseFFN(d_ff=config.integer("intermediate_size", default=1) or 1)
    blocks = parts.layers(mixer, moe, parts.every_step(config), dense)
    routing = parts.SOFTMAX.replace(normalise_gates=config.flag("norm_topk_prob"))
    return parts.decoder(config, blocks, routing=routing)


def olmoe(config: Fields) -> Architecture:
    """OLMoE: norms over all query and all key heads together."""
    mixer = parts.attention(config, qk_norm=True, qk_norm_whole=True)
    moe = parts.experts(config, width="intermediate_size")
    routing = parts.SOFTMAX.replace(normalise_gates=config.flag("norm_topk_prob"))
    return parts.decoder(config, parts.layers(mixer, moe, [True] * config.n_layers), routing=routing)


def gpt_oss(config: Fields) -> Architecture:
    """gpt-oss: biases everywhere, attention sinks, every other layer with a window."""
    kinds = config.sequence("layer_types") or [
        "full_attention" if index % 2 else "sliding_attention" for index in range(config.n_layers)
    ]
    bias = config.flag("attention_bias", default=True)
    mixers = parts.windowed(config, parts.attention(config, bias=bias, output_bias=bias, sinks=True), kinds)
    moe = parts.experts(config, width="intermediate_size", bias=True)
    blocks = parts.layers(mixers, moe, [True] * config.n_layers)
    return parts.decoder(config, blocks, routing=parts.TOPK_SOFTMAX)


def dbrx(config: Fields) -> Architecture:
    """DBRX: nested attention and FFN configs; LayerNorm without bias."""
    mixer = parts.attention(config, n_kv_heads=config.nested("attn_config").integer("kv_n_heads"))
    moe = parts.experts(config.nested("ffn_config"), width="ffn_hidden_size")
    return parts.decoder(config, parts.layers(mixer, moe, [True] * config.n_layers))


def llama4(config: Fields) -> Architecture:
    """Llama 4 (text part): a shared expert as wide as a routed one, dense layers between."""
    step, chosen = config.integer("interleave_moe_layer_step", default=1), config.sequence("moe_layers")
    sparse = [index in chosen if chosen is not None else (index + 1) % step == 0 for index in range(config.n_layers)]
    rotary = config.sequence("no_rope_layers") or [(index + 1) % 4 != 0 for index in range(config.n_layers)]
    kinds = config.sequence("layer_types") or [
        "chunked_attention" if uses_rope else "full_attention" for uses_rope in rotary
    ]
    width = config.integer("intermediate_size")
    moe = parts.experts(config, width="intermediate_size", **parts.shared(1, width))
    dense = DenseFFN(d_ff=config.integer("intermediate_size_mlp"))
    mixers = parts.windowed(config, parts.attention(config), kinds)  # its query and key norms have no parameters
    routing = parts.SIGMOID_LOSS_FREE.replace(balancing="aux_loss", normalise_gates=False)
    return parts.decoder(config, parts.layers(mixers, moe, sparse, dense), routing=routing)


def hunyuan(config: Fields) -> Architecture:
    """Hunyuan MoE: shared expert; in Hunyuan-Large every other layer takes keys and values from the one below."""
    n_layers = config.n_layers
    widths = config.per_layer("moe_intermediate_size", "intermediate_size", n_layers=n_layers)
    top_k = config.per_layer("moe_topk", "num_experts_per_tok", n_layers=n_layers)
    n_shared = config.per_layer("num_shared_expert", n_layers=n_layers, default=1)
    moe = [
        parts.experts(
            config,
            width="intermediate_size",
            top_k=top_k[index],
            d_expert=widths[index],
            **parts.shared(n_shared[index], config.integer("intermediate_size")),
        )
        for index in range(n_layers)
    ]
    own = parts.attention(config, qk_norm=config.flag("use_qk_norm", default=config.model_type == "hunyuan_v1_moe"))
    share = config.integer("cla_share_factor", default=1) if config.flag("use_cla") else 1
    mixers = [own if index % share == 0 else own.replace(reuses_keys=True) for index in range(n_layers)]
    return parts.decoder(config, parts.layers(mixers, moe, [True] * n_layers))


def ernie(config: Fields) -> Architecture:
    """ERNIE 4.5 MoE."""
    bias, width = config.flag("use_bias"), config.integer("moe_intermediate_size")
    mixer = parts.attention(config, bias=bias, output_bias=bias)
    moe = parts.experts(
        config,
        width="moe_intermediate_size",
        **parts.shared(config.integer("moe_num_shared_experts", default=0), width),
    )
    first, last = config.integer("moe_layer_start_index", default=1), config.get("moe_layer_end_index")
    last = config.n_layers - 1 if last in (None, -1) else last
    step = config.integer("moe_layer_interval", default=1)
    sparse = [first <= index <= last and (index + 1) % step == 0 for index in range(config.n_layers)]
    dense = DenseFFN(d_ff=config.integer("intermediate_size"), bias=bias)
    return parts.decoder(config, parts.layers(mixer, moe, sparse, dense), head_bias=bias)


def deepseek_moe(config: Fields) -> Architecture:
    """DeepSeekMoE, dots.llm1, GLM-4.5 and Ling: grouped-query attention with DeepSeek's expert layers."""
    family = config.model_type
    bias = config.flag("use_qkv_bias", "attention_bias")
    qk_norm = config.flag("use_qk_norm", default=family == "dots1")
    mixer = parts.attention(
        config,
        bias=bias,
        output_bias=bias and family == "dots1",
        qk_norm=qk_norm,
        window=None,
    )
    return _deepseek_layers(config, mixer, sigmoid=family not in ("deepseek", "bailing_moe"))


def deepseek_v2(config: Fields) -> Architecture:
    """DeepSeek-V2: latent attention, softmax router."""
    return _deepseek_layers(config, parts.latent_attention(config), sigmoid=False)


def deepseek_v3(config: Fields) -> Architecture:
    """DeepSeek-V3, Kimi-K2, Moonlight: latent attention, sigmoid router with selection bias."""
    return _deepseek_layers(config, parts.latent_attention(config), sigmoid=True)


def glm_moe_dsa(config: Fields) -> Architecture:
    """GLM-5 and DeepSeek-V3.2: latent attention over the keys that an indexer chooses."""
    plain = parts.latent_attention(config)
    indexed = plain.replace(indexer=parts.latent_indexer(config))
    kinds = config.sequence("indexer_types") or ["full"] * config.n_layers
    return _deepseek_layers(config, [indexed if kind == "full" else plain for kind in kinds], sigmoid=True)


def _deepseek_layers(config: Fields, mixer: Mixer | list[LatentAttention], *, sigmoid: bool) -> Architecture:
    n_shared = config.integer("n_shared_experts", "num_shared_experts", default=0)
    moe = parts.experts(
        config, width="moe_intermediate_size", **parts.shared(n_shared, config.integer("moe_intermediate_size"))
    )
    dense = DenseFFN(d_ff=config.integer("intermediate_size", default=1) or 1)
    routing = parts.SIGMOID_LOSS_FREE if sigmoid else parts.SOFTMAX
    return parts.decoder(
        config,
        parts.layers(mixer, moe, parts.first_dense(config), dense),
        routing=routing.replace(normalise_gates=config.flag("norm_topk_prob", default=sigmoid)),
    )
