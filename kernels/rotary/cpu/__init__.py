"""Rotary positions in C++, on one CPU: ``rotary.cpp`` beside this file says how it works."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe_search.kernels.native.level import chosen_level
from moe_search.kernels.native.library import NativeLibrary, n_threads, native_library
from moe_search.kernels.passes import count_pass

_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def library() -> NativeLibrary:
    """Return the compiled rotation, or why there is none."""
    return native_library(Path(__file__).with_name("rotary.cpp"), chosen_level())


@torch.library.custom_op("moe_search::rotary_cpu", mutates_args=())
def _turn(x: Tensor, cosines: Tensor, sines: Tensor, sign: float) -> Tensor:
    """Return ``x`` (batch, seq, heads, head_dim) turned by its positions' angles, or back (``sign`` -1)."""
    if sign > 0:
        count_pass("rotary", "cpu")
    if x.stride(-1) != 1:
        x = x.contiguous()
    out = x.new_empty(x.shape)
    batch, seq, heads, head_dim = x.shape
    strides = torch.tensor(x.stride()[:3])
    sizes = batch, seq, heads, head_dim // 2, n_threads(), sign
    library().call(f"rotary_{_SUFFIX[x.dtype]}", *sizes, strides, x, cosines, sines, out)
    return out


@_turn.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cosines, sines, ctx.sign = inputs
    ctx.save_for_backward(cosines, sines)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _turn(grad, *ctx.saved_tensors, -ctx.sign), None, None, None


_turn.register_autograd(_differentiate, setup_context=_keep)


def cpu_rotary(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return the output; arguments as in :func:`moe_search.kernels.rotary.rotary`, already checked."""
    out: Tensor = _turn(x, cosines.float().contiguous(), sines.float().contiguous(), 1.0)
    return out
