"""What the kernel families share: which backend stands for "auto"."""

from collections.abc import Callable
from typing import TypeVar

import torch

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
