"""The C++ libraries of this process: built and opened when first asked for, or one warning that says why not."""

import ctypes
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moe_search.kernels.native.build import BuildError, build, buildable


class NativeLibrary(NamedTuple):
    """A library, or the reason why there is none."""

    functions: ctypes.CDLL | None
    level: str
    reason: str
    """One clause: what is active, or what is missing."""

    def call(self, function: str, *arguments: Tensor | int | float) -> None:
        """Call a function with the addresses of contiguous tensors, C ints and C floats; its result must be 0.

        Raises:
            MemoryError: the function found no memory for its buffers.
        """
        if self.functions is None:
            raise AssertionError(self.reason)
        if getattr(self.functions, function)(*(_as_c(argument) for argument in arguments)):
            raise MemoryError(f"{function} found no memory for its buffers")


def _as_c(argument: Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int | ctypes.c_float:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int(argument) if isinstance(argument, int) else ctypes.c_float(argument)


@cache
def native_library(source: Path, level: str) -> NativeLibrary:
    """Return the library of a C++ file for a CPU level, or the next below it that the compiler knows.

    It shares torch's OpenMP threads.
    """
    try:
        built = buildable(source, level)
        reason = f"C++ built for {built}" + ("" if built == level else f": the compiler does not know {level}")
        return NativeLibrary(ctypes.CDLL(str(build(source, built))), built, reason)
    except (BuildError, OSError) as error:
        warnings.warn(f"The slower PyTorch code stands in for {source.name}: {error}", stacklevel=2)
        return NativeLibrary(None, level, str(error))


def n_threads() -> int:
    """Return how many threads a library may use: torch's number."""
    return torch.get_num_threads()
