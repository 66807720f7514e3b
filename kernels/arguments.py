"""What the kernel families ask of their arguments. Every refusal is a ValueError whose message begins with the name."""

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from moe_search.kernels.backends import COMPILED_DTYPES

COMPUTED_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
"""What the families compute in: the compiled types, and float64 for references."""


def chosen_backend(
    backend: str,
    known: Collection[str],
    default: Callable[[str, torch.dtype], tuple[str, str]],
    name: str,
    tensor: Tensor,
) -> str:
    """Return the backend that runs, once it is known that it can.

    Args:
        backend: one of ``known``, or "auto".
        known: the family's backends.
        default: the family's ``default_backend``.
        name: of the argument whose device and type decide.
        tensor: that argument.

    Raises:
        ValueError: there is no such backend, or "cpu" cannot take the argument or is missing.
    """
    check_backend(backend, known)
    device = tensor.device.type
    chosen = default(device, tensor.dtype)[0] if backend == "auto" else backend
    if chosen == "cpu":
        check_compiled(name, tensor, default("cpu", tensor.dtype))
    return chosen


def check_backend(backend: str, known: Collection[str]) -> None:
    """Refuse a backend that a family does not have.

    Raises:
        ValueError: with the known ones.
    """
    if backend not in {"auto", *known}:
        raise ValueError(f"backend is {backend!r}; known: auto, {', '.join(known)}")


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


def check_axes(name: str, tensor: Tensor, axes: str) -> None:
    """Refuse another number of axes than ``axes`` names, such as "(tokens, d_model)".

    Raises:
        ValueError: with the shape there is.
    """
    if tensor.dim() != axes.count(",") + 1:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {axes}")


def check_beside(name: str, tensor: Tensor, shape: tuple[int, ...], first_name: str, first: Tensor) -> None:
    """Refuse another shape than the other arguments ask for, or another device than the first argument's.

    Raises:
        ValueError: with what there is and what was expected.
    """
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape} from the other arguments")
    if tensor.device != first.device:
        raise ValueError(f"{name} is on {tensor.device} but {first_name} is on {first.device}")


def check_computed(name: str, tensor: Tensor) -> None:
    """Refuse a type that is not among ``COMPUTED_DTYPES``.

    Raises:
        ValueError: with the type there is.
    """
    if tensor.dtype not in COMPUTED_DTYPES:
        raise ValueError(f"{name} is {tensor.dtype}; expected float32, bfloat16 or float64")


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse integers, booleans and complex numbers.

    Raises:
        ValueError: with the type there is.
    """
    if not tensor.is_floating_point():
        raise ValueError(f"{name} is {tensor.dtype}; expected a floating type")


def check_type_of(name: str, tensor: Tensor, first_name: str, first: Tensor) -> None:
    """Refuse another type than the first argument's.

    Raises:
        ValueError: with both types.
    """
    if tensor.dtype != first.dtype:
        raise ValueError(f"{name} is {tensor.dtype} but {first_name} is {first.dtype}")


def check_below(name: str, tensor: Tensor, end: int) -> None:
    """Refuse integers outside [0, end), on the CPU and outside compiled code (a GPU's host would have to wait).

    Raises:
        ValueError: with the range there is.
    """
    if tensor.device.type != "cpu" or tensor.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = (int(bound) for bound in tensor.aminmax())
    if low < 0 or high >= end:
        raise ValueError(f"{name} has values in [{low}, {high}]; expected [0, {end - 1}]")


def check_finite(**arguments: Tensor) -> None:
    """Refuse NaN and infinities, on the CPU and outside compiled code (a GPU's host would have to wait).

    Raises:
        ValueError: it names the first argument with one.
    """
    if torch.compiler.is_compiling():
        return
    for name, tensor in arguments.items():
        if tensor.device.type == "cpu" and tensor.numel() > 0:
            low, high = (float(bound) for bound in tensor.detach().aminmax())  # a NaN is both
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ValueError(f"{name} has values that are not finite; its range is [{low}, {high}]")
