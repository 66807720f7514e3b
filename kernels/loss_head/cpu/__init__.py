"""Output head and cross-entropy in C++, on one CPU: ``loss_head.cpp`` beside this file says how it works.

One custom operator forms the loss and, where they will be asked for, both gradients of the sum; backward scales them.
The same bits at any number of threads.
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
    """Return the compiled head, or why there is none."""
    return native_library(Path(__file__).with_name("loss_head.cpp"), chosen_level())


@torch.library.custom_op("moe_search::loss_head_cpu", mutates_args=())
def _forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    learns: bool,  # noqa: FBT001 -- operators know no keywords
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sum (), the tokens' losses (tokens,), and the gradients of the sum, empty unless ``learns``."""
    count_pass("loss_head", "cpu")
    total, nats, grad_hidden, grad_weight = _outputs(hidden, weight, learns=learns)
    (tokens, d_model), vocabulary = hidden.shape, len(weight)
    given = hidden, weight.to(hidden.dtype), targets
    made = total, nats, grad_hidden, grad_weight
    library().call(
        f"loss_head_{_SUFFIX[hidden.dtype]}", tokens, d_model, vocabulary, n_threads(), int(learns), *given, *made
    )
    return total, nats, grad_hidden, grad_weight.to(weight.dtype)


def _outputs(hidden: Tensor, weight: Tensor, *, learns: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return tensor.new_empty(tensor.shape if learns else (0,), dtype=dtype)

    float32 = torch.float32
    nats = hidden.new_empty(len(hidden), dtype=float32)
    return hidden.new_empty((), dtype=float32), nats, like(hidden, hidden.dtype), like(weight, float32)


@_forward.register_fake
def _(hidden: Tensor, weight: Tensor, _targets: Tensor, learns: bool) -> Any:  # noqa: FBT001
    *others, grad_weight = _outputs(hidden, weight, learns=learns)
    return *others, grad_weight.to(weight.dtype)


@torch.library.custom_op("moe_search::loss_head_cpu_backward", mutates_args=())
def _scaled(
    scale: Tensor, _hidden: Tensor, _weight: Tensor, grad_hidden: Tensor, grad_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return both gradients times ``scale`` ().

    ``hidden`` and ``weight`` are arguments because the gradients depend on them: what cannot be differentiated twice
    then says so.
    """
    return grad_hidden * scale, grad_weight * scale


@_scaled.register_fake
def _(_scale: Tensor, _hidden: Tensor, _weight: Tensor, grad_hidden: Tensor, grad_weight: Tensor) -> Any:
    return torch.empty_like(grad_hidden), torch.empty_like(grad_weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, *_ = inputs
    _, nats, grad_hidden, grad_weight = output
    ctx.save_for_backward(hidden, weight, grad_hidden, grad_weight)
    ctx.mark_non_differentiable(nats, grad_hidden, grad_weight)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 4
    return *_scaled(grad, *ctx.saved_tensors), None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def cpu_loss_head(hidden: Tensor, weight: Tensor, targets: Tensor, *, learns: bool) -> tuple[Tensor, Tensor]:
    """Return the summed loss and every token's; arguments as in ``linear_cross_entropy``, already checked."""
    total, nats, *_ = _forward(hidden.contiguous(), weight.contiguous(), targets.contiguous(), learns)
    return total, nats
