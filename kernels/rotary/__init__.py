"""Rotary position embedding, behind one function.

A backend is a row in ``BACKENDS``. It is chosen by keyword, never by a global, and ``backend_counts()`` tells which
ones really ran.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from moe_search.kernels.arguments import (
    check_axes,
    check_backend,
    check_beside,
    check_finite,
    check_floating,
    chosen_backend,
)
from moe_search.kernels.backends import compiled_or, constant_in_graphs
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


def rotary(x: Tensor, cosines: Tensor, sines: Tensor, *, backend: str = "auto", finite: bool = False) -> Tensor:
    """Turn every head by the angles of its place in the sequence (Su et al., arXiv 2104.09864).

    Halves are paired as in Hugging Face models: element ``j`` with element ``j + head_dim / 2``.

    Args:
        x: (batch, seq, heads, head_dim), floating, head_dim even; any strides, also a slice of a projection.
        cosines: (seq, head_dim / 2), of the positions' angles; no gradient flows to them.
        sines: like ``cosines``.
        backend: a key of ``BACKENDS``, or "auto" for the fastest there is (``default_backend``).
        finite: the caller knows that all values are finite, or wants NaN and inf to come out where they went in, as a
            training loop does that looks for them in its loss; they are not looked for then.

    Returns:
        A contiguous tensor like ``x``.

    Raises:
        ValueError: an argument of the wrong shape, type or device, or with NaN or inf; the message names it.
            Values are looked at on the CPU only (on a GPU that would make the host wait), and not in compiled code.
    """
    check_backend(backend, BACKENDS)
    check_axes("x", x, "(batch, seq, heads, head_dim)")
    check_floating("x", x)
    if x.shape[-1] % 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected an even head_dim, the last")
    for name, tensor in (("cosines", cosines), ("sines", sines)):
        check_beside(name, tensor, (x.shape[1], x.shape[3] // 2), "x", x)
        check_floating(name, tensor)
    if not finite:
        check_finite(x=x, cosines=cosines, sines=sines)
    name = chosen_backend(backend, BACKENDS, default_backend, "x", x)
    return BACKENDS[name](x, cosines, sines)
