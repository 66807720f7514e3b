"""Division by the root mean square, times a learned gain, behind one function.

A backend is a row in ``BACKENDS``. It is chosen by keyword, never by a global, and ``backend_counts()`` tells which
ones really ran.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from moe_search.kernels.arguments import check_backend, check_beside, check_finite, check_floating, chosen_backend
from moe_search.kernels.backends import compiled_or, constant_in_graphs
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


def rms_norm(x: Tensor, weight: Tensor, *, epsilon: float, backend: str = "auto", finite: bool = False) -> Tensor:
    """Return ``x / sqrt(mean(x**2) + epsilon) * weight`` over the last axis (Zhang and Sennrich, arXiv 1910.07467).

    Args:
        x: (…, width), floating. Means are float32 at least; NaN and inf stay in their rows.
        weight: (width,), floating; its gradient has its own type.
        epsilon: keeps a row of zeros finite.
        backend: a key of ``BACKENDS``, or "auto" for the fastest there is (``default_backend``).
        finite: the caller knows that all values are finite, or wants NaN and inf to come out where they went in, as a
            training loop does that looks for them in its loss; they are not looked for then.

    Returns:
        A tensor like ``x``.

    Raises:
        ValueError: an argument of the wrong shape, type, device or range, or with NaN or inf; the message names it.
            Values are looked at on the CPU only (on a GPU that would make the host wait), and not in compiled code.
    """
    check_backend(backend, BACKENDS)
    check_floating("x", x)
    check_floating("weight", weight)
    if x.dim() == 0:
        raise ValueError("x has no axis; expected (…, width)")
    check_beside("weight", weight, tuple(x.shape[-1:]), "x", x)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon is {epsilon}; expected a finite number, not below 0")
    if not finite:
        check_finite(x=x, weight=weight)
    name = chosen_backend(backend, BACKENDS, default_backend, "x", x)
    with torch.autocast(x.device.type, enabled=False):
        return BACKENDS[name](x, weight, epsilon=epsilon)
