"""Parts that several families share: attention, expert layers, which layers have experts, the decoder around them."""

from collections.abc import Iterable, Sequence
from typing import Any

from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN, Routing
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.huggingface.fields import Fields
from moe_search.spaces.mixers import GroupedQueryAttention, LatentAttention, Mixer, SparseIndexer

SOFTMAX = Routing(router="softmax_topk", balancing="aux_loss")
TOPK_SOFTMAX = Routing(router="topk_softmax", balancing="aux_loss")
SIGMOID_LOSS_FREE = Routing(router="sigmoid", balancing="loss_free", balance_coefficient=1e-3)


def attention(config: Fields, **changes: Any) -> GroupedQueryAttention:
    """Return grouped-query attention under the usual names; ``changes`` are what a family has beyond them."""
    n_heads = config.integer("num_attention_heads", "n_heads")
    bias = config.flag("attention_bias")
    values = {
        "n_heads": n_heads,
        "n_kv_heads": config.integer("num_key_value_heads", default=n_heads),
        "head_dim": config.optional("head_dim", "attention_head_dim") or config.d_model // n_heads,
        "bias": bias,
        "output_bias": bias,
    }
    return GroupedQueryAttention.model_validate(values | changes)


def windowed(config: Fields, mixer: GroupedQueryAttention, kinds: Sequence[str]) -> list[GroupedQueryAttention]:
    """Return one mixer a layer, with a window where its kind is ``sliding_attention`` or ``chunked_attention``."""
    windows = {
        "sliding_attention": config.optional("sliding_window"),
        "chunked_attention": config.optional("attention_chunk_size"),
    }
    by_kind = {kind: mixer.replace(window=windows.get(kind)) for kind in set(kinds)}
    return [by_kind[kind] for kind in kinds]


def latent_attention(config: Fields, **changes: Any) -> LatentAttention:
    """Return multi-head latent attention under DeepSeek's names."""
    values = {
        "n_heads": config.integer("num_attention_heads"),
        "query_rank": config.optional("q_lora_rank"),
        "kv_rank": config.integer("kv_lora_rank"),
        "nope_dim": config.integer("qk_nope_head_dim"),
        "rope_dim": config.integer("qk_rope_head_dim"),
        "value_dim": config.integer("v_head_dim"),
        "bias": config.flag("attention_bias"),
    }
    return LatentAttention.model_validate(values | changes)


def latent_indexer(config: Fields) -> SparseIndexer:
    """Return DeepSeek's lightning indexer, which reads the query latent."""
    return SparseIndexer(
        n_heads=config.integer("index_n_heads"),
        head_dim=config.integer("index_head_dim"),
        top_k=config.integer("index_topk"),
        query_rank=config.integer("q_lora_rank"),
        head_weights=True,
    )


def experts(config: Fields, *, width: str, **changes: Any) -> MoEFFN:
    """Return a routed FFN without shared experts; ``width`` is the family's name of an expert's width."""
    values = {
        "n_experts": config.integer("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
        "top_k": config.integer("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k"),
        "d_expert": config.integer(width),
    }
    return MoEFFN.model_validate({**values, **changes})


def shared(n: int, width: int) -> dict[str, int]:
    """Return the fields of ``n`` shared experts of ``width`` each; none where either is zero."""
    return {"n_shared_experts": n, "d_shared_expert": width} if n and width else {}


def first_dense(config: Fields) -> list[bool]:
    """Say for every layer whether it has experts, from ``first_k_dense_replace`` and ``moe_layer_freq``."""
    kinds = config.sequence("mlp_layer_types")
    if kinds is not None:
        return [kind != "dense" for kind in kinds]
    frequencies = config.sequence("moe_layer_freq")
    if frequencies is not None:
        return [bool(frequency) for frequency in frequencies]
    first, step = config.integer("first_k_dense_replace", default=0), config.integer("moe_layer_freq", default=1)
    return [index >= first and index % step == 0 for index in range(config.n_layers)]


def every_step(config: Fields) -> list[bool]:
    """Say for every layer whether it has experts, from ``decoder_sparse_step`` and ``mlp_only_layers`` (Qwen)."""
    step, dense = config.integer("decoder_sparse_step", default=1), set(config.sequence("mlp_only_layers") or ())
    return [index not in dense and (index + 1) % step == 0 for index in range(config.n_layers)]


def layers(
    mixers: Mixer | Sequence[Mixer],
    moe: MoEFFN | Sequence[MoEFFN],
    sparse: Iterable[bool],
    dense: DenseFFN | None = None,
) -> tuple[Layer, ...]:
    """Return the layers: experts where ``sparse`` says so, the dense FFN elsewhere; single parts repeat."""
    built = []
    for index, has_experts in enumerate(sparse):
        mixer = mixers[index] if isinstance(mixers, Sequence) else mixers
        ffn = (moe[index] if isinstance(moe, Sequence) else moe) if has_experts else dense
        built.append(Layer(mixer=mixer, ffn=ffn))
    return tuple(built)


def decoder(config: Fields, blocks: Sequence[Layer], **changes: Any) -> Architecture:
    """Return the decoder around ``blocks``.

    Raises:
        InvalidInputError: there are fewer or more blocks than ``num_hidden_layers`` says.
    """
    stated = config.optional("num_hidden_layers", "n_layers")
    if stated is not None and stated != len(blocks):
        raise InvalidInputError(
            f"num_hidden_layers is {stated} but the layer lists have {len(blocks)} entries",
            where=f"config.json ({config.model_type})",
            fix=f"num_hidden_layers: {len(blocks)}",
        )
    values = {
        "name": str(config.get("_name_or_path") or ""),
        "d_model": config.d_model,
        "vocab_size": config.integer("vocab_size"),
        "seq_len": config.seq_len,
        "layers": tuple(blocks),
        "tied_embeddings": config.flag("tie_word_embeddings"),
        "rope_theta": config.rope_theta,
        "routing": SOFTMAX,
    }
    return Architecture.model_validate(values | changes)
