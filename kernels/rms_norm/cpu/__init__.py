"""RMSNorm in C++, on one CPU: ``rms_norm.cpp`` beside this file says how it works."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe_search.kernels.native.level import chosen_level
from moe_search.kernels.native.library import NativeLibrary, n_threads, native_library
from moe_search.kernels.passes import count_pass

_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def library() -> NativeLibrary:
    """Return the compiled norm, or why there is none."""
    return native_library(Path(__file__).with_name("rms_norm.cpp"), chosen_level())


@torch.library.custom_op("moe_search::rms_norm_cpu", mutates_args=())
def _forward(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the output and each row's factor (rows,), of ``x`` (rows, width)."""
    count_pass("rms_norm", "cpu")
    out, factor = torch.empty_like(x), x.new_empty(len(x), dtype=torch.float32)
    sizes = *x.shape, n_threads()
    library().call(f"rms_norm_forward_{_SUFFIX[x.dtype]}", *sizes, epsilon, x, weight, out, factor)
    return out, factor


@_forward.register_fake
def _(x: Tensor, *_: Any) -> Any:
    return torch.empty_like(x), x.new_empty(len(x), dtype=torch.float32)


@torch.library.custom_op("moe_search::rms_norm_cpu_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, weight: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight."""
    made = torch.empty_like(x), torch.empty_like(weight)
    library().call(f"rms_norm_backward_{_SUFFIX[x.dtype]}", *x.shape, n_threads(), grad, x, weight, factor, *made)
    return made


@_backward.register_fake
def _(_grad: Tensor, x: Tensor, weight: Tensor, _factor: Tensor) -> Any:
    return torch.empty_like(x), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 3
    return *_backward(grad.contiguous(), *ctx.saved_tensors), None


_forward.register_autograd(_differentiate, setup_context=_keep)


def cpu_rms_norm(x: Tensor, weight: Tensor, *, epsilon: float) -> Tensor:
    """Return the output; arguments as in :func:`moe_search.kernels.rms_norm.rms_norm`, already checked."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    out: Tensor = _forward(rows, weight.float().contiguous(), epsilon)[0]
    return out.view(x.shape)
