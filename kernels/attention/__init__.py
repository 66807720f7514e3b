"""Causal grouped-query attention, forward and backward, behind one function.

A backend is a function with the signature of
:func:`~moe_search.kernels.attention.reference.reference_causal_attention` and a row in ``BACKENDS``. It is chosen by
keyword, never by a global, and ``backend_counts()`` tells which ones really ran.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from moe_search.kernels.arguments import (
    check_backend,
    check_beside,
    check_computed,
    check_finite,
    check_type_of,
    chosen_backend,
)
from moe_search.kernels.attention.cpu import cpu_causal_attention, library
from moe_search.kernels.attention.reference import reference_causal_attention
from moe_search.kernels.attention.sdpa import sdpa_causal_attention
from moe_search.kernels.backends import compiled_or, constant_in_graphs
from moe_search.kernels.passes import counted

__all__ = ["BACKENDS", "backend_counts", "causal_attention", "default_backend"]


class Backend(Protocol):
    """One way to compute attention; its arguments have been checked."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor: ...


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {"reference": reference_causal_attention, "sdpa": sdpa_causal_attention, "cpu": cpu_causal_attention}
)


def backend_counts() -> dict[str, int]:
    """Return how many forward passes each backend has done in this process."""
    return counted("attention", BACKENDS)


@constant_in_graphs
def default_backend(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return the backend that "auto" takes on a device for a type, and the reason in a few words."""
    if device_type != "cpu":
        return "sdpa", f"PyTorch has its own kernels for {device_type}"
    return compiled_or("sdpa", library, device_type, dtype)


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, backend: str = "auto", finite: bool = False
) -> Tensor:
    """Mix values along the sequence, every position those before it and its own.

    ``out[b, i, h] = sum_{j <= i} softmax_j(scale * <q[b, i, h], k[b, j, g]>) v[b, j, g]``, where ``g`` is the key/value
    head that query head ``h`` shares with its neighbours: ``h // (n_heads // n_kv_heads)`` (grouped-query attention,
    Ainslie et al., arXiv 2305.13245). Inside an autocast region the inputs are cast to its type.

    Args:
        q: (batch, seq, n_heads, head_dim), float32, bfloat16 or float64; any strides, also a slice of a projection.
        k: (batch, seq, n_kv_heads, head_dim), of the type of ``q``; ``n_kv_heads`` divides ``n_heads``.
        v: like ``k``.
        scale: what scores are multiplied by; ``head_dim ** -0.5`` by default.
        backend: a key of ``BACKENDS``, or "auto" for the fastest there is (``default_backend``).
        finite: the caller knows that all values are finite, or wants NaN and inf to come out where they went in, as a
            training loop does that looks for them in its loss; they are not looked for then.

    Returns:
        A contiguous tensor like ``q``.

    Raises:
        ValueError: an argument of the wrong shape, type or device, or with NaN or inf; the message names it.
            Values are looked at on the CPU only (on a GPU that would make the host wait), and not in compiled code.
    """
    check_backend(backend, BACKENDS)
    if torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    _check(q, k, v)
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale is {scale}; expected a finite number")
    if not finite:
        check_finite(q=q, k=k, v=v)
    name = chosen_backend(backend, BACKENDS, default_backend, "q", q)
    with torch.autocast(q.device.type, enabled=False):
        return BACKENDS[name](q, k, v, scale=q.shape[-1] ** -0.5 if scale is None else scale)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, tensor, heads in (("q", q, "n_heads"), ("k", k, "n_kv_heads")):
        if tensor.dim() != 4 or 0 in tensor.shape[2:]:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected (batch, seq, {heads}, head_dim)")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"q has {q.shape[2]} heads; expected a multiple of the {k.shape[2]} of k")
    check_computed("q", q)
    for name, tensor in (("k", k), ("v", v)):
        check_beside(name, tensor, (*q.shape[:2], k.shape[2], q.shape[3]), "q", q)
        check_type_of(name, tensor, "q", q)
