"""Hugging Face, family Qwen3-MoE: ``config.json`` that ``AutoConfig`` and ``AutoModelForCausalLM`` load unmodified.

The family (transformers ``models/qwen3_moe``) has one expert count, one expert width and one ``top_k`` for all MoE
layers; which layers are dense is a list (``mlp_only_layers``). Its router is a softmax over all experts followed by
top-k, optionally renormalised; a softmax over the chosen ``top_k`` logits is the same function as the renormalised
form. Queries and keys are always normalised per head. Whatever else an architecture has is listed by :func:`losses`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TypeGuard

import moe_search
from moe_search.spaces.accounting import count
from moe_search.spaces.architecture import Architecture, DenseFFN, MoEFFN, Routing
from moe_search.spaces.huggingface import architecture_from_config
from moe_search.spaces.mixers import GroupedQueryAttention

NORM_EPSILON = 1e-6
"""``rms_norm_eps`` of the family's published models, and of our proxies."""


def losses(architecture: Architecture) -> list[str]:
    """Return what a Qwen3-MoE config cannot say about ``architecture``; empty when it says everything."""
    known = [*_mixer_losses(architecture), *_ffn_losses(architecture), *_routing_losses(architecture)]
    return known or list(_round_trip_losses(architecture))


def _is_grouped_query(mixer: object) -> TypeGuard[GroupedQueryAttention]:
    return isinstance(mixer, GroupedQueryAttention)


def _mixer_losses(architecture: Architecture) -> Iterator[str]:
    mixers = {layer.mixer for layer in architecture.layers}
    kinds = {getattr(mixer, "kind", "none") for mixer in mixers}
    if kinds != {"gqa"}:
        yield f"token mixers {', '.join(sorted(kinds - {'gqa'}))} (only grouped-query attention in every layer)"
        return
    if len(mixers) > 1:
        yield "attention that differs between layers"
    for mixer in filter(_is_grouped_query, mixers):
        if not mixer.qk_norm:
            yield "attention without QK norm (the family always normalises)"
        if mixer.bias != mixer.output_bias:
            yield "biases on only some of the attention projections"
        if mixer.qk_norm_whole:
            yield "QK norm over all heads together (the family normalises each head)"
        if mixer.output_gate:
            yield "the gate on the attention output"
        if mixer.sinks:
            yield "attention sinks"
        if mixer.window is not None:
            yield f"the attention window of {mixer.window} tokens"


def _ffn_losses(architecture: Architecture) -> Iterator[str]:
    ffns = [layer.ffn for layer in architecture.layers]
    if None in ffns:
        yield "layers without a feed-forward part"
    moe, dense = architecture.moe_layers, [ffn for ffn in ffns if isinstance(ffn, DenseFFN)]
    if not moe:
        yield "a model without experts (the family has at least one MoE layer)"
    for name, values in {
        "expert counts": [ffn.n_experts for ffn in moe],
        "numbers of active experts": [ffn.top_k for ffn in moe],
        "expert widths": [ffn.d_expert for ffn in moe],
        "widths of dense layers": [ffn.d_ff for ffn in dense],
    }.items():
        if len(set(values)) > 1:
            yield f"{name} that differ over depth ({min(values)} to {max(values)}: {_shown(values)})"
    shared = sorted({ffn.n_shared_experts for ffn in moe} - {0})
    if shared:
        yield f"{' or '.join(map(str, shared))} shared expert{'s' if shared != [1] else ''} a layer"
    if not (all(ffn.gated for ffn in moe) and all(ffn.gated for ffn in dense)):
        yield "feed-forward parts without a gate"
    if any(ffn.latent_dim for ffn in moe):
        yield "experts that work in a latent width"
    if any(ffn.bias for ffn in moe):
        yield "biases on router and experts"


def _routing_losses(architecture: Architecture) -> Iterator[str]:
    if architecture.moe_layers and architecture.routing.router not in {"softmax_topk", "topk_softmax"}:
        yield f"the {architecture.routing.router} router (the family has softmax, then top-k)"
    if architecture.moe_layers and architecture.routing.balancing == "loss_free":
        yield "the selection bias of loss-free balancing"


def _round_trip_losses(architecture: Architecture) -> Iterator[str]:
    """Yield what reading the config back does not give: the net under the rules above."""
    ours = architecture.replace(name="", routing=Routing())
    theirs = architecture_from_config(config(architecture)).replace(name="", routing=Routing())
    for name in sorted(
        set(type(ours).model_fields) - {"seq_len"}
    ):  # readers cap the sequence length, the config has it
        if getattr(ours, name) != getattr(theirs, name):
            yield f"the field {name}" if name == "layers" else f"{name} = {getattr(ours, name)}"


def _shown(values: list[int]) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")


def config(architecture: Architecture) -> dict[str, object]:
    """Return the ``config.json`` of an architecture without losses."""
    mixer = next(filter(_is_grouped_query, (layer.mixer for layer in architecture.layers)))
    moe = architecture.moe_layers[0]
    dense = [layer.ffn.d_ff for layer in architecture.layers if isinstance(layer.ffn, DenseFFN)]
    routing = architecture.routing
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.d_model,
        "intermediate_size": dense[0] if dense else moe.top_k * moe.d_expert,
        "num_hidden_layers": architecture.n_layers,
        "num_attention_heads": mixer.n_heads,
        "num_key_value_heads": mixer.n_kv_heads,
        "head_dim": mixer.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": architecture.seq_len,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": architecture.rope_theta,
        "tie_word_embeddings": architecture.tied_embeddings,
        "attention_bias": mixer.bias,
        "attention_dropout": 0.0,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i, layer in enumerate(architecture.layers) if not isinstance(layer.ffn, MoEFFN)],
        "moe_intermediate_size": moe.d_expert,
        "num_experts": moe.n_experts,
        "num_experts_per_tok": moe.top_k,
        "norm_topk_prob": routing.router == "topk_softmax" or (routing.normalise_gates and moe.top_k > 1),
        "router_aux_loss_coef": routing.balance_coefficient if routing.balancing == "aux_loss" else 0.0,
        "output_router_logits": False,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
    }


def files(architecture: Architecture) -> Mapping[str, str]:
    """Return ``config.json``, ``generation_config.json`` and the model card of an architecture without losses."""
    generation = {"_from_model_config": True, "do_sample": True}
    return {
        "config.json": json.dumps(config(architecture), indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
        "README.md": _model_card(architecture),
    }


def _model_card(architecture: Architecture) -> str:
    counted, moe = count(architecture), architecture.moe_layers[0]
    name = architecture.name or "Recommended mixture-of-experts model"
    return f"""---
library_name: transformers
tags: [moe, moe-search]
---

# {name}

A configuration recommended by moe-search {moe_search.__version__}: an architecture to train, without weights.

| | |
| --- | --- |
| parameters | {counted.n_total:,} ({counted.n_total_non_embedding:,} without embeddings) |
| active for one token | {counted.n_active:,} ({counted.n_active_non_embedding:,} without embeddings) |
| layers x width | {architecture.n_layers} x {architecture.d_model} |
| experts a layer | {moe.n_experts}, of which {moe.top_k} active, each {moe.d_expert} wide |
| router | {architecture.routing.router}, balancing {architecture.routing.balancing} |

```python
from transformers import AutoConfig, AutoModelForCausalLM

model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained("."))
```
"""
