"""Rotary position embedding, behind one function.

A backend is a row in ``BACKENDS``. It is chosen by keyword, never by a global, and ``backend_counts()`` tells which
ones really ran.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from moe_search.kernels.backends import check_compiled, compiled_or, constant_in_graphs
from moe_search.kernels.passes import counted
from moe_search.kernels.rotary.cpu import cpu_rotary, library
from moe_search.kernels.rotary.reference import reference_rotary

__all__ = ["BACKENDS", "backend_counts", "default_backend", "rotary"]


class Backend(Protocol):
    """One way to turn the heads; its arguments have been checked."""

    def __call__(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor: ...


BACKENDS: Mapping[str, Backend] = MappingProxyType({"reference": reference_rotary, "cpu": cpu_rotary})


def backend_counts() -> dict[str, int]:
    """Return how many forward passes each backend has done in this process."""
    return counted("rotary", BACKENDS)


@constant_in_graphs
def default_backend(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return the backend that "auto" takes on a device for a type, and the reason in a few words."""
    return compiled_or("reference", library, device_type, dtype)


def rotary(x: Tensor, cosines: Tensor, sines: Tensor, *, backend: str = "auto") -> Tensor:
    """Turn every head by the angles of its place in the sequence (Su et al., arXiv 2104.09864).

    Halves are paired as in Hugging Face models: element ``j`` with element ``j + head_dim / 2``.

    Args:
        x: (batch, seq, heads, head_dim), floating, head_dim even; any strides, also a slice of a projection.
        cosines: (seq, head_dim / 2), of the positions' angles; no gradient flows to them.
        sines: like ``cosines``.
        backend: a key of ``BACKENDS``, or "auto" for the fastest there is (``default_backend``).

    Returns:
        A contiguous tensor like ``x``.

    Raises:
        ValueError: an argument of the wrong shape, type or device; the message names it.
    """
    if backend not in {"auto", *BACKENDS}:
        raise ValueError(f"backend is {backend!r}; known: auto, {', '.join(BACKENDS)}")
    if x.dim() != 4 or x.shape[-1] % 2 or not x.is_floating_point():
        shape = tuple(x.shape)
        raise ValueError(f"x is {x.dtype} of shape {shape}; expected (batch, seq, heads, an even head_dim), floating")
    expected = (x.shape[1], x.shape[3] // 2)
    for name, tensor in (("cosines", cosines), ("sines", sines)):
        if tuple(tensor.shape) != expected or not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected {expected}, floating")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device} but x is on {x.device}")
    name = default_backend(x.device.type, x.dtype)[0] if backend == "auto" else backend
    if name == "cpu":
        check_compiled("x", x, default_backend("cpu", x.dtype))
    return BACKENDS[name](x, cosines, sines)
