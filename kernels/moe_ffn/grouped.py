"""The MoE feed-forward layer in pure PyTorch, fast where there is no compiler: assignments sorted by expert.

The (token, slot) assignments are sorted by expert, so that each expert owns one contiguous slice of rows; a slice is
padded to a multiple of ``ROW_QUANTUM`` rows, so that the matrix products take few distinct shapes although the routing
changes every step (oneDNN compiles a kernel for every new shape). Experts are worked off in waves whose gathered rows
fit the cache. Rows return to their tokens by ``embedding_bag``: a gather and an ordered sum in one operation, hence
deterministic.

For backward are kept: the input, the pre-activations and the routing, so memory does not grow with granularity. The
gathered rows are gathered again; the gradient of a gate is the product of the hidden activations with their gradient,
so the down-projection's output is neither kept nor computed anew (SonicMoE, section "memory efficient backward").

In shapes: T tokens, K experts a token, D model width, R padded rows of all slices together.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from moe_search.kernels.moe_ffn.activations import Activation
from moe_search.kernels.passes import count_pass

ROW_QUANTUM = 32
"""Rows of an expert's slice are padded to a multiple of this."""
WAVE_BYTES = 2**20
"""Gathered rows that are in flight at once; measured best of 0.25 to 64 MiB where a core's own cache has 1 MiB."""


class Wave(NamedTuple):
    """Consecutive experts whose rows are handled together."""

    experts: slice
    rows: slice
    sizes: list[int]
    """Padded rows of each of the experts."""


class Routes(NamedTuple):
    """Where every assignment lies once sorted by expert."""

    token_of_row: Tensor
    """(R,) int32. Padding rows point at token 0; their gate is 0."""
    row_of_slot: Tensor
    """(T, K) int32."""
    waves: list[Wave]


def plan_routes(expert_index: Tensor, n_experts: int, bytes_per_row: int) -> Routes:
    """Sort assignments by expert (stable, so the order within an expert is that of the tokens) and cut waves."""
    flat = expert_index.flatten().long()
    order = torch.argsort(flat, stable=True)
    counts = torch.bincount(flat, minlength=n_experts)
    padded = (counts + (ROW_QUANTUM - 1)) // ROW_QUANTUM * ROW_QUANTUM
    padding_before = (padded - counts).cumsum(0) - (padded - counts)
    row_of_sorted = torch.arange(flat.numel(), device=flat.device) + padding_before[flat[order]]
    row_of_slot = torch.empty_like(flat).index_copy_(0, order, row_of_sorted)
    sizes = padded.tolist()
    token_of_row = flat.new_zeros(sum(sizes)).index_copy_(0, row_of_sorted, order // expert_index.shape[1])
    waves = cut_waves(sizes, max_rows=WAVE_BYTES // bytes_per_row)
    return Routes(token_of_row.int(), row_of_slot.int().view_as(expert_index), waves)


def cut_waves(sizes: list[int], max_rows: int) -> list[Wave]:
    """Cut experts into runs of at most ``max_rows`` rows, one expert at the least."""
    bounds, rows = [0], 0
    for expert, size in enumerate(sizes):
        if rows and rows + size > max_rows:
            bounds.append(expert)
            rows = 0
        rows += size
    bounds.append(len(sizes))
    waves, row = [], 0
    for first, last in pairwise(bounds):
        n = sum(sizes[first:last])
        waves.append(Wave(slice(first, last), slice(row, row + n), sizes[first:last]))
        row += n
    return waves


def times_weights(rows: Tensor, weights: Tensor, sizes: list[int], out: Tensor) -> None:
    """Multiply every expert's rows (size, m) by its matrix in ``weights`` (experts, m, n), into rows of ``out``."""
    for a, w, c in zip(rows.split_with_sizes(sizes), weights.unbind(), out.split_with_sizes(sizes), strict=True):
        torch.mm(a, w, out=c)


def weight_gradients(left: Tensor, right: Tensor, sizes: list[int], out: Tensor) -> None:
    """Write ``left[e].T @ right[e]`` over every expert's rows (size, m) and (size, n) into ``out`` (experts, m, n)."""
    for a, b, c in zip(left.T.split_with_sizes(sizes, 1), right.split_with_sizes(sizes), out.unbind(), strict=True):
        torch.mm(a, b, out=c)


class GroupedMoE(torch.autograd.Function):
    """The layer with its hand-written backward pass."""

    @staticmethod
    def forward(  # noqa: PLR0917 -- autograd functions know no keywords
        ctx: Any,
        x: Tensor,
        w_up: Tensor,
        w_down: Tensor,
        expert_index: Tensor,
        gates: Tensor,
        activation: Activation,
    ) -> Tensor:
        """Return the output (T, D)."""
        n_experts, _, d_model = w_down.shape
        routes = plan_routes(expert_index, n_experts, d_model * x.element_size())
        n_rows = len(routes.token_of_row)
        h = x.new_empty(n_rows, w_up.shape[1])  # pre-activations
        y = x.new_empty(n_rows, d_model)
        for experts, rows, sizes in routes.waves:
            x_rows = x.index_select(0, routes.token_of_row[rows])
            times_weights(x_rows, w_up[experts].mT, sizes, out=h[rows])
            times_weights(activation.forward(h[rows]), w_down[experts], sizes, out=y[rows])
        ctx.save_for_backward(x, w_up, w_down, gates, h, routes.token_of_row, routes.row_of_slot)
        ctx.waves, ctx.activation = routes.waves, activation
        return functional.embedding_bag(routes.row_of_slot, y, mode="sum", per_sample_weights=gates)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, w_up, w_down and gates."""
        x, w_up, w_down, gates, h, token_of_row, row_of_slot = ctx.saved_tensors
        n_rows, d_model = len(h), x.shape[1]
        slots = row_of_slot.flatten()
        gate_of_row = gates.new_zeros(n_rows, 1)
        gate_of_row[slots] = gates.reshape(-1, 1)
        grad_gate = gates.new_empty(n_rows)
        grad_x_rows = x.new_empty(n_rows, d_model)
        grad_w_up, grad_w_down = torch.empty_like(w_up), torch.empty_like(w_down)
        for experts, rows, sizes in ctx.waves:
            tokens, gate = token_of_row[rows], gate_of_row[rows]
            grad_y = grad_out.index_select(0, tokens)  # of the expert's output, its gate left out
            grad_hidden = x.new_empty(len(tokens), w_down.shape[1])
            times_weights(grad_y, w_down[experts].mT, sizes, out=grad_hidden)
            hidden, grad_h = ctx.activation.backward(grad_hidden * gate, h[rows])
            torch.sum(grad_hidden.mul_(hidden), dim=-1, out=grad_gate[rows])
            weight_gradients(hidden.mul_(gate), grad_y, sizes, out=grad_w_down[experts])
            x_rows = torch.index_select(x, 0, tokens, out=grad_y)
            weight_gradients(grad_h, x_rows, sizes, out=grad_w_up[experts])
            times_weights(grad_h, w_up[experts], sizes, out=grad_x_rows[rows])
        grad_x = functional.embedding_bag(row_of_slot, grad_x_rows, mode="sum")
        grad_gates = grad_gate.index_select(0, slots).view_as(gates)
        return grad_x, grad_w_up, grad_w_down, None, grad_gates, None


def grouped_moe_ffn(
    x: Tensor, w_up: Tensor, w_down: Tensor, expert_index: Tensor, gates: Tensor, *, activation: Activation
) -> Tensor:
    """Return the layer's output (T, D); arguments as in :func:`moe_search.kernels.moe_ffn.moe_ffn`, already checked."""
    count_pass("moe_ffn", "grouped")
    if expert_index.numel() == 0:
        # No assignment: the output is zero, and connected to every argument as the reference's is.
        return x * 0 + 0 * (w_up.sum() + w_down.sum() + gates.sum()).to(x.dtype)
    out: Tensor = GroupedMoE.apply(x, w_up, w_down, expert_index, gates.to(x.dtype), activation)  # type: ignore[no-untyped-call]
    return out
