"""Causal attention in C++, on one CPU: ``attention.cpp`` beside this file says how it works.

Two custom operators, so that ``torch.compile(fullgraph=True)`` passes over them; both take any number of threads and
return the same bits for all. For backward are kept the inputs as they lie, the output and a log-sum-exp a row.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe_search.kernels.native.level import chosen_level
from moe_search.kernels.native.library import NativeLibrary, n_threads, native_library
from moe_search.kernels.passes import count_pass

_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def library() -> NativeLibrary:
    """Return the compiled attention, or why there is none."""
    return native_library(Path(__file__).with_name("attention.cpp"), chosen_level())


def _with_whole_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _sizes(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[int | float | Tensor, ...]:
    strides = torch.tensor([step for x in (q, k, v) for step in x.stride()[:3]], device="cpu")
    return *q.shape[:3], k.shape[2], q.shape[3], n_threads(), float(scale), strides


@torch.library.custom_op("moe_search::causal_attention_cpu", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the output like ``q`` and the log-sum-exp (batch, n_heads, seq) of the scores, to base 2."""
    count_pass("attention", "cpu")
    q, k, v = (_with_whole_rows(x) for x in (q, k, v))
    out, log_totals = q.new_empty(q.shape), q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)
    library().call(f"attention_forward_{_SUFFIX[q.dtype]}", *_sizes(q, k, v, scale), q, k, v, out, log_totals)
    return out, log_totals


@_forward.register_fake
def _(q: Tensor, *_: Any) -> Any:
    return q.new_empty(q.shape), q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)


@torch.library.custom_op("moe_search::causal_attention_cpu_backward", mutates_args=())
def _backward(  # noqa: PLR0917 -- operators know no keywords
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_totals: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    q, k, v = (_with_whole_rows(x) for x in (q, k, v))
    made = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    given = (q, k, v, out.contiguous(), log_totals, grad.contiguous())
    library().call(f"attention_backward_{_SUFFIX[q.dtype]}", *_sizes(q, k, v, scale), *given, *made)
    return made


@_backward.register_fake
def _(_grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Any:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 4
    return *_backward(grad, *ctx.saved_tensors, ctx.scale), None


_forward.register_autograd(_differentiate, setup_context=_keep)


def cpu_causal_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Return the output; arguments as in :func:`moe_search.kernels.attention.causal_attention`, already checked."""
    out: Tensor = _forward(q, k, v, scale)[0]
    return out
