"""Division by the root mean square, times a learned gain, behind one function.

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
from moe_search.kernels.rms_norm.cpu import cpu_rms_norm, library
from moe_search.kernels.rms_norm.reference import reference_rms_norm

__all__ = ["BACKENDS", "backend_counts", "default_backend", "rms_norm"]


class Backend(Protocol):
    """One way to compute the norm; its arguments have been checked."""

    def __call__(self, x: Tensor, weight: Tensor, *, epsilon: float) -> Tensor: ...


BACKENDS: Mapping[str, Backend] = MappingProxyType({"reference": reference_rms_norm, "cpu": cpu_rms_norm})


def backend_counts() -> dict[str, int]:
    """Return how many forward passes each backend has done in this process."""
    return counted("rms_norm", BACKENDS)


@constant_in_graphs
def default_backend(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return the backend that "auto" takes on a device for a type, and the reason in a few words."""
    return compiled_or("reference", library, device_type, dtype)


def rms_norm(x: Tensor, weight: Tensor, *, epsilon: float, backend: str = "auto") -> Tensor:
    """Return ``x / sqrt(mean(x**2) + epsilon) * weight`` over the last axis (Zhang and Sennrich, arXiv 1910.07467).

    Args:
        x: (…, width), floating. Means are float32 at least; NaN and inf stay in their rows.
        weight: (width,), floating; its gradient has its own type.
        epsilon: keeps a row of zeros finite.
        backend: a key of ``BACKENDS``, or "auto" for the fastest there is (``default_backend``).

    Returns:
        A tensor like ``x``.

    Raises:
        ValueError: an argument of the wrong shape, type or device; the message names it.
    """
    if backend not in {"auto", *BACKENDS}:
        raise ValueError(f"backend is {backend!r}; known: auto, {', '.join(BACKENDS)}")
    if x.dim() == 0 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}; expected (…, width), floating")
    if tuple(weight.shape) != tuple(x.shape[-1:]) or not weight.is_floating_point():
        raise ValueError(
            f"weight is {weight.dtype} of shape {tuple(weight.shape)}; expected {tuple(x.shape[-1:])}, floating"
        )
    if weight.device != x.device:
        raise ValueError(f"weight is on {weight.device} but x is on {x.device}")
    name = default_backend(x.device.type, x.dtype)[0] if backend == "auto" else backend
    if name == "cpu":
        check_compiled("x", x, default_backend("cpu", x.dtype))
    with torch.autocast(x.device.type, enabled=False):
        return BACKENDS[name](x, weight, epsilon=epsilon)
