"""The router in C++, on one CPU: ``router.cpp`` beside this file says how it works.

Two custom operators, so that ``torch.compile(fullgraph=True)`` passes over them; both take any number of threads and
return the same bits for all. For backward are kept the input, the decisions and one score a token and expert.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe_search.kernels.native.level import chosen_level
from moe_search.kernels.native.library import NativeLibrary, n_threads, native_library
from moe_search.kernels.passes import count_pass
from moe_search.kernels.router.routed import Routed

_CHUNK, _STRIDE = 128, 144
"""Tokens that are worked on together, and floats that a row of their scores takes; as in ``router.cpp``."""
_Made = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def library() -> NativeLibrary:
    """Return the compiled router, or why there is none."""
    return native_library(Path(__file__).with_name("router.cpp"), chosen_level())


@torch.library.custom_op("moe_search::router_cpu", mutates_args=())
def _forward(  # noqa: PLR0917 -- operators know no keywords
    x: Tensor,
    weight: Tensor,
    selection_bias: Tensor | None,
    top_k: int,
    sigmoid: bool,  # noqa: FBT001
    normalise_gates: bool,  # noqa: FBT001
    learns: bool,  # noqa: FBT001
) -> _Made:
    """Return the fields of ``Routed``, those with a gradient first, and what backward needs.

    That is the scores, empty unless ``learns``, and the logs of the softmax denominators.
    """
    count_pass("router", "cpu")
    (tokens, d_model), experts = x.shape, len(weight)
    made = _outputs(x, weight, top_k, learns=learns)
    bias = x.new_empty(0) if selection_bias is None else selection_bias
    sizes = tokens, top_k, d_model, experts, int(sigmoid), int(normalise_gates), n_threads()
    library().call("router_forward", *sizes, x, weight, bias, *made)
    return made


def _outputs(x: Tensor, weight: Tensor, top_k: int, *, learns: bool) -> _Made:
    tokens, experts = len(x), len(weight)
    chunks = (tokens + _CHUNK - 1) // _CHUNK
    return (
        x.new_empty(tokens, top_k),
        x.new_empty(experts),
        x.new_empty(()),
        x.new_empty(tokens, top_k, dtype=torch.int64),
        x.new_empty(experts, dtype=torch.int64),
        x.new_empty(experts, dtype=torch.float64),
        x.new_empty((chunks, experts, _STRIDE) if learns else (0,)),
        x.new_empty(tokens),
    )


@_forward.register_fake
def _(x: Tensor, weight: Tensor, _bias: Any, top_k: int, _sigmoid: bool, _normalise: bool, learns: bool) -> Any:  # noqa: FBT001
    return _outputs(x, weight, top_k, learns=learns)


@torch.library.custom_op("moe_search::router_cpu_backward", mutates_args=())
def _backward(  # noqa: PLR0917
    grad_gates: Tensor | None,
    grad_mean_probability: Tensor | None,
    grad_mean_square_partition: Tensor | None,
    x: Tensor,
    weight: Tensor,
    expert_index: Tensor,
    gates: Tensor,
    scores: Tensor,
    partition: Tensor,
    sigmoid: bool,  # noqa: FBT001
    normalise_gates: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight."""
    made = torch.empty_like(x), torch.empty_like(weight)
    given = grad_gates, grad_mean_probability, grad_mean_square_partition
    arrived = [x.new_empty(0) if grad is None else grad.contiguous() for grad in given]
    sizes = len(x), gates.shape[1], x.shape[1], len(weight), int(sigmoid), int(normalise_gates), n_threads()
    kept = x, weight, expert_index, gates, scores, partition
    library().call("router_backward", *sizes, *arrived, *kept, *made)
    return made


@_backward.register_fake
def _(_gates: Any, _mean: Any, _square: Any, x: Tensor, weight: Tensor, *_: Any) -> Any:
    return torch.empty_like(x), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, _, ctx.sigmoid, ctx.normalise_gates, _ = inputs
    gates, _, _, expert_index, counts, gate_mass, scores, partition = output
    ctx.save_for_backward(x, weight, expert_index, gates, scores, partition)
    ctx.mark_non_differentiable(expert_index, counts, gate_mass, scores, partition)
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, grad_gates: Tensor | None, grad_mean: Tensor | None, grad_square: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_gates is None and grad_mean is None and grad_square is None:
        return (None,) * 7
    made = _backward(grad_gates, grad_mean, grad_square, *ctx.saved_tensors, ctx.sigmoid, ctx.normalise_gates)
    return *made, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def cpu_route(
    x: Tensor,
    weight: Tensor,
    selection_bias: Tensor | None,
    *,
    top_k: int,
    sigmoid: bool,
    normalise_gates: bool,
    learns: bool,
) -> Routed:
    """Return the decisions; arguments as in :func:`moe_search.kernels.router.route`, already checked."""
    bias = None if selection_bias is None else selection_bias.detach().float().contiguous()
    given = x.float().contiguous(), weight.float().contiguous(), bias
    gates, mean, square, index, counts, gate_mass, _, _ = _forward(*given, top_k, sigmoid, normalise_gates, learns)
    return Routed(index, gates, counts, gate_mass, mean, None if sigmoid else square)
