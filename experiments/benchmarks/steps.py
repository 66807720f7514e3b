"""A whole training step: forward, backward, clip, fused AdamW; our model, a dense one, and transformers' Qwen3-MoE.

All have the same widths, heads, vocabulary and active FLOPs. In bfloat16 the weights stay float32 and the step runs
under autocast; as transformers' grouped experts do not follow autocast, it is timed with bfloat16 weights too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from moe_search.experiments.benchmarks.contestants import Case, Contestant, gemm_peaks
from moe_search.experiments.benchmarks.families import Setting
from moe_search.proxies.model import DecoderLM, build_model
from moe_search.proxies.training.precision import choose_products
from moe_search.scaling.throughput import StepShape
from moe_search.spaces.accounting import flops_per_token
from moe_search.spaces.errors import InvalidInputError

DIMENSIONS = ("n_layers", "d_model", "n_heads", "n_experts", "top_k", "d_expert", "vocab_size")
REFERENCE = ((6, 256, 4, 64, 8, 64, 256), (6, 256, 4, 64, 8, 64, 4096))
CLIP = 1.0
LEARNING_RATE = 1e-3


def step_shape(numbers: Sequence[int], *, seq_len: int) -> StepShape:
    """Return the shape of ``DIMENSIONS`` in order.

    Raises:
        InvalidInputError: no model has it.
    """
    shape = StepShape.model_validate({**dict(zip(DIMENSIONS, numbers, strict=True)), "seq_len": seq_len})
    if shape.top_k > shape.n_experts or (shape.n_experts and not shape.top_k):
        raise InvalidInputError(
            f"top_k is {shape.top_k} of {shape.n_experts} experts", where="--shape", allowed="1 <= k <= E, or k = E = 0"
        )
    shape.architecture()
    return shape


def step_case(shape: StepShape, setting: Setting, *, ours_alone: bool = False) -> Case:
    """Return the step of a model of ``shape`` with all who train it.

    Args:
        shape: of the model.
        setting: tokens of a step, type, device.
        ours_alone: build no anchors.

    Raises:
        InvalidInputError: the tokens are no whole number of sequences.
    """
    if setting.tokens % shape.seq_len:
        raise InvalidInputError(
            f"{setting.tokens} tokens are no whole number of sequences of {shape.seq_len}",
            where="--tokens",
            fix=str(max(setting.tokens // shape.seq_len, 1) * shape.seq_len),
        )
    data = _Tokens(shape, setting)
    on_onednn = (
        setting.dtype == "float32" and choose_products("auto", torch.device(setting.device)) == "onednn"
    )  # as the trainer chooses
    fast: Literal["highest", "medium"] = "medium" if on_onednn else "highest"
    contestants = [_own("ours", shape, setting, data, precision=fast, kind="ours")]
    if not ours_alone:
        dense = shape.replace(n_experts=0, top_k=0, d_expert=max(shape.top_k, 1) * shape.d_expert)
        contestants.append(_own("dense", dense, setting, data, precision=fast))
        if on_onednn:
            contestants.append(_own("ours, torch defaults", shape, setting, data, kind="ours"))
        if shape.n_experts:
            contestants += [
                _transformers(implementation, shape, setting, data) for implementation in ("eager", "grouped_mm")
            ]
            if on_onednn:
                contestants.append(_transformers("grouped_mm", shape, setting, data, precision="medium"))
            if setting.dtype == "bfloat16":
                contestants.append(_transformers("grouped_mm", shape, setting, data, half_weights=True))
        contestants += gemm_peaks(setting.torch_dtype, torch.device(setting.device))
    return Case(
        family="step",
        shape=shape.model_dump(),
        dtype=setting.torch_dtype,
        tokens=setting.tokens,
        flops=flops_per_token(shape.architecture()).train * setting.tokens,
        baseline="dense",
        contestants=contestants,
        fresh=data.fresh,
    )


class _Tokens:
    """The batch of a step, new in every round."""

    def __init__(self, shape: StepShape, setting: Setting) -> None:
        self.size = (setting.tokens // shape.seq_len, shape.seq_len + 1)
        self.vocab_size, self.device = shape.vocab_size, torch.device(setting.device)
        self.generator = torch.Generator().manual_seed(setting.seed)
        self.fresh(-1)

    def fresh(self, number: int) -> None:
        """Draw tokens of a skewed distribution, as text has."""
        del number
        drawn = torch.rand(self.size, generator=self.generator) ** 2 * self.vocab_size
        self.tokens = drawn.long().clamp_(max=self.vocab_size - 1).to(self.device)


def _update(model: nn.Module, after: Callable[[], None] | None = None) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)

    def finish() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if after is not None:
            after()

    return finish


def _own(
    name: str,
    shape: StepShape,
    setting: Setting,
    data: _Tokens,
    *,
    precision: Literal["highest", "medium"] = "highest",
    kind: Literal["ours", "anchor"] = "anchor",
) -> Contestant:
    model: DecoderLM = build_model(shape.architecture(), seed=setting.seed).to(setting.device)

    def forward() -> Tensor:
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.dtype == "bfloat16"):
            output = model.loss(data.tokens)
        return output.loss + output.auxiliary_loss

    return Contestant(
        name,
        forward,
        kind=kind,
        leaves=tuple(model.parameters()),
        precision=precision,
        finish=_update(model, model.end_step),
        comparable=False,
    )


def _transformers(
    implementation: str,
    shape: StepShape,
    setting: Setting,
    data: _Tokens,
    *,
    precision: Literal["highest", "medium"] = "highest",
    half_weights: bool = False,
) -> Contestant:
    name = f"transformers {implementation}" + (" onednn" if precision == "medium" else "")
    name += ", bf16 weights" if half_weights else ""
    try:
        from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM  # noqa: PLC0415 - optional
    except ImportError as error:
        return Contestant(name, partial(_absent, name), missing=f"transformers is not there ({error})")
    options: dict[str, Any] = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_heads,
        "head_dim": shape.d_model // shape.n_heads,
        "num_experts": shape.n_experts,
        "num_experts_per_tok": shape.top_k,
        "moe_intermediate_size": shape.d_expert,
        "max_position_embeddings": shape.seq_len,
        "norm_topk_prob": True,
        "output_router_logits": True,
        "use_cache": False,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "sdpa",
        "experts_implementation": implementation,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        model: Any = Qwen3MoeForCausalLM(Qwen3MoeConfig(**options))
    model = model.to(setting.device, torch.bfloat16 if half_weights else torch.float32).train()

    def forward() -> Tensor:
        autocast = setting.dtype == "bfloat16" and not half_weights
        tokens = data.tokens[:, :-1]
        with torch.autocast(setting.device, torch.bfloat16, enabled=autocast):
            loss: Tensor = model(input_ids=tokens, labels=tokens).loss
        return loss

    return Contestant(
        name,
        forward,
        leaves=tuple(model.parameters()),
        precision=precision,
        finish=_update(model),
        comparable=False,
    )


def _absent(name: str) -> Tensor:
    raise AssertionError(f"{name} is missing and is not run")
