"""What the kernel families share: which backend stands for "auto", and arguments that a backend cannot take."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from moe_search.kernels.native.library import NativeLibrary

COMPILED_DTYPES = (torch.float32, torch.bfloat16)
"""What the C++ backends compute in."""


_Function = TypeVar("_Function", bound=Callable[..., object])


def constant_in_graphs(function: _Function) -> _Function:
    """Mark a function whose result ``torch.compile`` may take for a constant.

    This is ``torch.compiler.assume_constant_result``, which would import the compiler: seconds, before a first step.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def compiled_or(
    fallback: str, library: Callable[[], NativeLibrary], device_type: str, dtype: torch.dtype
) -> tuple[str, str]:
    """Return "cpu" where the C++ backend can run, else ``fallback``; and the reason in a few words."""
    if device_type != "cpu":
        return fallback, f"there is no compiled backend for {device_type}"
    if dtype not in COMPILED_DTYPES:
        return fallback, f"the compiled backend does not know {dtype}"
    found = library()
    return (fallback if found.functions is None else "cpu"), found.reason


def check_compiled(name: str, tensor: Tensor, default: tuple[str, str]) -> None:
    """Refuse the backend "cpu" for an argument it cannot take, or where it is missing.

    Args:
        name: the argument's.
        tensor: the argument.
        default: what ``default_backend`` says of the CPU and the argument's type.

    Raises:
        ValueError: with the reason.
    """
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}; backend 'cpu' runs on the CPU")
    if tensor.dtype not in COMPILED_DTYPES:
        raise ValueError(f"{name} is {tensor.dtype}; backend 'cpu' knows float32 and bfloat16")
    if default[0] != "cpu":
        raise ValueError(f"backend is 'cpu', which is not available: {default[1]}")


def check_finite(**arguments: Tensor) -> None:
    """Refuse what is not a number, on the CPU and outside compiled code (a GPU's host would have to wait).

    Raises:
        ValueError: it names the first argument with a NaN or an infinity.
    """
    if torch.compiler.is_compiling():
        return
    for name, tensor in arguments.items():
        if tensor.device.type == "cpu" and tensor.numel() > 0:
            low, high = (float(bound) for bound in tensor.detach().aminmax())  # a NaN is both
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ValueError(f"{name} has values that are not finite; its range is [{low}, {high}]")
