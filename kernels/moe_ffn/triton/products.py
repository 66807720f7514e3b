# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-untyped-def"
"""The matrix products of the layer, grouped by expert, their gathers fused into the loads.

Four kernels, each a tile of rows of one expert times that expert's matrix, or its transpose, or another set of rows:

=====================  ==================================================  =======================
kernel                 computes, for the rows of an expert                 used for
=====================  ==================================================  =======================
``up_projection``      ``H = X W_up^T``, ``A = act(H)``                    forward
``rows_times_weight``  ``R W``                                             down-projection, dX
``hidden_gradient``    ``G = dO W_down^T``, dH, ``gate A``, ``<G, A>``     backward
``weight_gradient``    ``R^T Z``                                           dW_down, dW_up
=====================  ==================================================  =======================

X, dO and Z are rows of tokens, gathered through ``slot_of_row`` as they are loaded. Offsets of rows and experts are
64-bit. Rows and columns beyond the edge repeat an inner one and are not stored; only the summed dimension is masked.

The compiler moves 16 bytes at a time where it knows that offsets are multiples of 8. It finds out by itself for
multiples of 16; of hidden widths such as 24 it is shown by ``EIGHTS``. Odd sizes are right, and slow.
"""

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from moe_search.kernels.moe_ffn.triton.activations import phi, phi_derivative
from moe_search.kernels.moe_ffn.triton.tuning import table, tuned


def is_multiple(extent: str, block: str | int) -> Callable[[dict[str, Any]], bool]:
    """Return a test whether the argument ``extent`` is a multiple of the argument, or number, ``block``."""
    return lambda given: given[extent] % (given[block] if isinstance(block, str) else block) == 0


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr):
    """Return ``total + a @ b`` in float32."""
    if PRECISION == "widened":
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@tuned(
    table(
        ({"BLOCK_N": 128, "BLOCK_K": 64}, 8, 4),
        ({"BLOCK_N": 128, "BLOCK_K": 32}, 8, 4),
        ({"BLOCK_N": 64, "BLOCK_K": 64}, 8, 3),
        ({"BLOCK_N": 64, "BLOCK_K": 64}, 4, 3),
        ({"BLOCK_N": 32, "BLOCK_K": 32}, 4, 4),
        ({"BLOCK_N": 16, "BLOCK_K": 32}, 4, 4),
    ),
    key=["d_model", "d_expert", "BLOCK_M"],
    widths={"BLOCK_N": "d_expert", "BLOCK_K": "d_model"},
)
@triton.heuristics({"EVEN": is_multiple("d_model", "BLOCK_K"), "EIGHTS": is_multiple("d_expert", 8)})
@triton.jit
def up_projection(
    x,
    w_up,
    h,
    hidden,
    slot_of_row,
    tiles,
    d_model,
    d_expert,
    top_k,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    EIGHTS: tl.constexpr,
):
    """Write pre-activations ``h`` (S, 2f or f), if they are to be kept, and the activations ``hidden`` (S, f)."""
    if EIGHTS:
        d_expert = d_expert // 8 * 8
    n_blocks = tl.cdiv(d_expert, BLOCK_N)
    tile = tl.program_id(0) // n_blocks
    expert = tl.load(tiles + tile * 3).to(tl.int64)
    begin = tl.load(tiles + tile * 3 + 1)
    end = tl.load(tiles + tile * 3 + 2)
    if begin >= end:
        return
    row = begin + tl.arange(0, BLOCK_M)
    token = tl.load(slot_of_row + tl.minimum(row, end - 1)) // top_k
    n = (tl.program_id(0) % n_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.where(n < d_expert, n, 0).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    half = tl.cast(d_expert, tl.int64) * d_model
    x_tile = x + token.to(tl.int64)[:, None] * d_model + k[None, :]
    w_tile = w_up + expert * (half * (2 if GATED else 1)) + column[None, :] * d_model + k[:, None]
    g = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    u = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, d_model, BLOCK_K):
        if EVEN:
            a = tl.load(x_tile)
            g = dot(a, tl.load(w_tile), g, PRECISION)
            if GATED:
                u = dot(a, tl.load(w_tile + half), u, PRECISION)
        else:
            inside = k < d_model - first
            a = tl.load(x_tile, mask=inside[None, :], other=0.0)
            g = dot(a, tl.load(w_tile, mask=inside[:, None], other=0.0), g, PRECISION)
            if GATED:
                u = dot(a, tl.load(w_tile + half, mask=inside[:, None], other=0.0), u, PRECISION)
        x_tile += BLOCK_K
        w_tile += BLOCK_K
    kept = (row < end)[:, None] & (n < d_expert)[None, :]
    offset = row.to(tl.int64)[:, None]
    if KEEP:
        h_tile = h + offset * (d_expert * (2 if GATED else 1)) + n[None, :]
        tl.store(h_tile, g.to(h.dtype.element_ty), mask=kept)
        if GATED:
            tl.store(h_tile + d_expert, u.to(h.dtype.element_ty), mask=kept)
    out = phi(g, ACTIVATION)
    if GATED:
        out *= u
    tl.store(hidden + offset * d_expert + n[None, :], out.to(hidden.dtype.element_ty), mask=kept)


@tuned(
    table(
        ({"BLOCK_N": 256, "BLOCK_K": 64}, 8, 3),
        ({"BLOCK_N": 128, "BLOCK_K": 64}, 8, 3),
        ({"BLOCK_N": 128, "BLOCK_K": 64}, 4, 3),
        ({"BLOCK_N": 128, "BLOCK_K": 32}, 4, 4),
        ({"BLOCK_N": 64, "BLOCK_K": 32}, 4, 3),
        ({"BLOCK_N": 32, "BLOCK_K": 16}, 4, 3),
    ),
    key=["d_in", "d_out", "BLOCK_M"],
    widths={"BLOCK_N": "d_out", "BLOCK_K": "d_in"},
)
@triton.heuristics(
    {
        "EVEN_K": is_multiple("d_in", "BLOCK_K"),
        "EVEN_N": is_multiple("d_out", "BLOCK_N"),
        "EIGHTS": is_multiple("d_in", 8),
    }
)
@triton.jit
def rows_times_weight(
    rows,
    weight,
    out,
    tiles,
    d_in,
    d_out,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    EVEN_N: tl.constexpr,
    EIGHTS: tl.constexpr,
):
    """``out = rows @ weight[expert]`` with rows (S, d_in), weight (E, d_in, d_out)."""
    if EIGHTS:
        d_in = d_in // 8 * 8
    n_blocks = tl.cdiv(d_out, BLOCK_N)
    tile = tl.program_id(0) // n_blocks
    expert = tl.load(tiles + tile * 3).to(tl.int64)
    begin = tl.load(tiles + tile * 3 + 1)
    end = tl.load(tiles + tile * 3 + 2)
    if begin >= end:
        return
    row = begin + tl.arange(0, BLOCK_M)
    n = (tl.program_id(0) % n_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    row_tile = rows + tl.minimum(row, end - 1).to(tl.int64)[:, None] * d_in + k[None, :]
    weight_tile = weight + expert * d_in * d_out + k.to(tl.int64)[:, None] * d_out + n[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, d_in, BLOCK_K):
        if EVEN_K and EVEN_N:
            total = dot(tl.load(row_tile), tl.load(weight_tile), total, PRECISION)
        else:
            inside = k < d_in - first
            a = tl.load(row_tile, mask=inside[None, :], other=0.0)
            b = tl.load(weight_tile, mask=inside[:, None] & (n < d_out)[None, :], other=0.0)
            total = dot(a, b, total, PRECISION)
        row_tile += BLOCK_K
        weight_tile += tl.cast(d_out, tl.int64) * BLOCK_K
    kept = (row < end)[:, None] & (n < d_out)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * d_out + n[None, :], total.to(out.dtype.element_ty), mask=kept)


@triton.jit
def hidden_gradient_epilogue(
    grad,
    gate,
    h,
    grad_h,
    hidden,
    h_offset,
    offset,
    inside,
    n,
    d_expert,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
):
    """Store the gradient of ``h`` and gate * A for columns ``n``; return their part of ``<grad, A>``."""
    kept = inside[:, None] & (n < d_expert)[None, :]
    h_offset += n[None, :]
    g = tl.load(h + h_offset, mask=kept, other=0.0).to(tl.float32)
    out = phi(g, ACTIVATION)
    grad_g = grad * gate * phi_derivative(g, ACTIVATION)
    if GATED:
        u = tl.load(h + h_offset + d_expert, mask=kept, other=0.0).to(tl.float32)
        tl.store(grad_h + h_offset + d_expert, (grad * gate * out).to(grad_h.dtype.element_ty), mask=kept)
        grad_g *= u
        out *= u
    tl.store(grad_h + h_offset, grad_g.to(grad_h.dtype.element_ty), mask=kept)
    tl.store(hidden + offset * d_expert + n[None, :], (gate * out).to(hidden.dtype.element_ty), mask=kept)
    return tl.sum(tl.where(kept, grad * out, 0.0), axis=1)


@tuned(
    table(
        ({"BLOCK_N": 128, "BLOCK_K": 64}, 8, 3),
        ({"BLOCK_N": 128, "BLOCK_K": 32}, 8, 4),
        ({"BLOCK_N": 64, "BLOCK_K": 64}, 8, 3),
        ({"BLOCK_N": 64, "BLOCK_K": 64}, 4, 3),
        ({"BLOCK_N": 32, "BLOCK_K": 32}, 4, 4),
        ({"BLOCK_N": 16, "BLOCK_K": 32}, 4, 4),
    ),
    key=["d_model", "d_expert", "BLOCK_M"],
    widths={"BLOCK_N": "d_expert", "BLOCK_K": "d_model"},
    zeroed=["grad_gate"],
)
@triton.heuristics({"EVEN": is_multiple("d_model", "BLOCK_K"), "EIGHTS": is_multiple("d_expert", 8)})
@triton.jit
def hidden_gradient(
    grad_out,
    w_down,
    h,
    gates,
    grad_h,
    hidden,
    grad_gate,
    slot_of_row,
    tiles,
    n_slots,
    d_model,
    d_expert,
    top_k,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    EIGHTS: tl.constexpr,
):
    """Write the gradient of ``h``, the activations times their gate, and this tile's share of the gate's gradient.

    With ``G = dO W_down^T``: ``dH = act'(gate * G)``, and d(gate) is ``<G, A>``, so the layer's per-expert outputs are
    not needed (SonicMoE). ``grad_gate`` (blocks of d_expert, S) is indexed by slot and must be zero on entry.
    """
    if EIGHTS:
        d_expert = d_expert // 8 * 8
    n_blocks = tl.cdiv(d_expert, BLOCK_N)
    tile = tl.program_id(0) // n_blocks
    block = tl.program_id(0) % n_blocks
    expert = tl.load(tiles + tile * 3).to(tl.int64)
    begin = tl.load(tiles + tile * 3 + 1)
    end = tl.load(tiles + tile * 3 + 2)
    if begin >= end:
        return
    row = begin + tl.arange(0, BLOCK_M)
    slot = tl.load(slot_of_row + tl.minimum(row, end - 1))
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.where(n < d_expert, n, 0).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    out_tile = grad_out + (slot // top_k).to(tl.int64)[:, None] * d_model + k[None, :]
    w_tile = w_down + expert * d_expert * d_model + column[None, :] * d_model + k[:, None]
    grad = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, d_model, BLOCK_K):
        if EVEN:
            grad = dot(tl.load(out_tile), tl.load(w_tile), grad, PRECISION)
        else:
            inside = k < d_model - first
            a = tl.load(out_tile, mask=inside[None, :], other=0.0)
            grad = dot(a, tl.load(w_tile, mask=inside[:, None], other=0.0), grad, PRECISION)
        out_tile += BLOCK_K
        w_tile += BLOCK_K
    gate = tl.load(gates + slot).to(tl.float32)[:, None]
    offset = row.to(tl.int64)[:, None]
    h_offset = offset * (d_expert * (2 if GATED else 1))
    # Half the columns at a time: the whole epilogue at once does not fit the registers.
    left, right = tl.split(tl.trans(tl.reshape(grad, [BLOCK_M, 2, BLOCK_N // 2]), 0, 2, 1))
    n = block * BLOCK_N + tl.arange(0, BLOCK_N // 2)
    share = hidden_gradient_epilogue(
        left, gate, h, grad_h, hidden, h_offset, offset, row < end, n, d_expert, ACTIVATION, GATED
    )
    n += BLOCK_N // 2
    share += hidden_gradient_epilogue(
        right, gate, h, grad_h, hidden, h_offset, offset, row < end, n, d_expert, ACTIVATION, GATED
    )
    tl.store(grad_gate + tl.cast(block, tl.int64) * n_slots + slot, share, mask=row < end)


@tuned(
    table(
        ({"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64}, 8, 5),  # a load whose address is loaded takes two stages
        ({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}, 8, 5),
        ({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32}, 4, 5),
        ({"BLOCK_M": 64, "BLOCK_N": 256, "BLOCK_K": 64}, 8, 5),
        ({"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 64}, 4, 5),
        ({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, 4, 5),
        ({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}, 4, 5),
    ),
    key=["d_rows", "d_model", "n_experts"],
    widths={"BLOCK_M": "d_rows", "BLOCK_N": "d_model"},
)
@triton.heuristics({"EIGHTS": is_multiple("d_rows", 8)})
@triton.jit
def weight_gradient(
    rows,
    gathered,
    out,
    slot_of_row,
    group_start,
    n_chunks,
    n_experts,
    d_rows,
    d_model,
    top_k,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EIGHTS: tl.constexpr,
):
    """``out[expert] = sum_r rows[r]^T gathered[token of r]``, chunk after chunk; zero for an expert without rows.

    ``rows`` (S, d_rows), ``gathered`` (tokens, d_model), ``out`` (E, d_rows, d_model).
    """
    if EIGHTS:
        d_rows = d_rows // 8 * 8
    m_blocks = tl.cdiv(d_rows, BLOCK_M)
    n_blocks = tl.cdiv(d_model, BLOCK_N)
    expert = tl.program_id(0) // (m_blocks * n_blocks)
    block = tl.program_id(0) % (m_blocks * n_blocks)
    m = (block % m_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (block // m_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for chunk in range(n_chunks):
        begin = tl.load(group_start + chunk * n_experts + expert)
        end = tl.load(group_start + chunk * n_experts + expert + 1)
        for first in range(begin, end, BLOCK_K):
            row = first + k
            inside = row < end
            token = tl.load(slot_of_row + row, mask=inside, other=0) // top_k
            a = tl.load(
                rows + row.to(tl.int64)[None, :] * d_rows + m[:, None],
                mask=inside[None, :] & (m < d_rows)[:, None],
                other=0.0,
            )
            b = tl.load(
                gathered + token.to(tl.int64)[:, None] * d_model + n[None, :],
                mask=inside[:, None] & (n < d_model)[None, :],
                other=0.0,
            )
            total = dot(a, b, total, PRECISION)
    kept = (m < d_rows)[:, None] & (n < d_model)[None, :]
    offset = (tl.cast(expert, tl.int64) * d_rows + m)[:, None] * d_model + n[None, :]
    tl.store(out + offset, total.to(out.dtype.element_ty), mask=kept)
