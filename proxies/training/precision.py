"""The arithmetic of training: bfloat16 or float32, and whose float32 matrix products on a CPU.

On a CPU that is not Intel's, torch gives float32 products to MKL, which then does without AVX-512; oneDNN uses it.
``torch.set_float32_matmul_precision("medium")`` makes torch ask oneDNN, and allows it to round the factors to bfloat16,
which it does where the CPU has units for that (AMX) and only there. What it does here is found by trying: oneDNN is
refused unless its products are as accurate as float32 is.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch

from moe_search.proxies.training.provenance import cpu_facts
from moe_search.proxies.training.recipe import Float32Matmul
from moe_search.spaces.errors import InvalidInputError

PROBE = (256, 512, 256)
"""Rows, sum and columns of the product that is tried; oneDNN is not asked for much smaller ones."""
TOLERANCE = 8.0
"""Largest error of oneDNN's product over that of torch's own: another order of sums gives 2, bfloat16 thousands."""


@cache
def onednn_products() -> Literal["float32", "bfloat16", "unused"]:
    """Return how exact the products are that torch leaves to oneDNN, or that it leaves it none on this CPU."""
    generator = torch.Generator().manual_seed(0)
    rows, inner, columns = PROBE
    a, b = torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)
    truth = a.double() @ b.double()
    with float32_products("exact"):
        own = a @ b
    with float32_products("onednn"):
        other = a @ b
    if torch.equal(own, other):
        return "unused"
    error, own_error = ((product.double() - truth).abs().max() for product in (other, own))
    return "float32" if error <= TOLERANCE * own_error else "bfloat16"


@contextmanager
def float32_products(kind: Float32Matmul) -> Iterator[None]:
    """Compute float32 products in one way, and afterwards as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if kind == "onednn" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def choose_products(wanted: Literal["auto", "exact", "onednn"], device: torch.device) -> Float32Matmul:
    """Return how a proxy that is begun here computes float32 products.

    Args:
        wanted: ``auto`` is oneDNN where that is faster and as exact: on CPUs with AVX-512 that Intel did not make.
        device: where it is trained.

    Raises:
        InvalidInputError: oneDNN is asked for where it cannot be had, or is not exact.
    """
    if wanted == "onednn":
        objection = onednn_objection(device)
        if objection:
            raise InvalidInputError(
                f"onednn {objection}",
                where="training.float32_matmul",
                allowed="auto, exact",
                fix="float32_matmul: auto",
            )
        return "onednn"
    gains = wanted == "auto" and device.type == "cpu" and cpu_facts().get("vendor_id") != "GenuineIntel"
    return "onednn" if gains and onednn_products() == "float32" else "exact"


def onednn_objection(device: torch.device) -> str | None:
    """Return what is wrong with oneDNN's float32 products on a device, as the end of a sentence about them."""
    if device.type != "cpu":
        return "is for training on a CPU"
    return {
        "float32": None,
        "bfloat16": "would round the factors of float32 products to bfloat16 on this CPU, which has units for that",
        "unused": "changes nothing on this CPU, where torch leaves no float32 product to oneDNN",
    }[onednn_products()]


def uses_bfloat16(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> bool:
    """Return whether products are computed in bfloat16, of weights that stay float32 (autocast).

    A CPU without instructions for it computes them all the same, converting back and forth; a warning says so.
    """
    if wanted == "bf16" and device.type == "cpu" and not _has_bfloat16_units():
        warnings.warn(
            "training.precision is bf16, but this CPU has no bfloat16 instructions: fp32 is likely to be faster",
            stacklevel=2,
        )
    return wanted == "bf16" or (wanted == "auto" and device.type == "cuda")


def _has_bfloat16_units() -> bool:
    """Return False if the system says what instructions the CPU has, and bfloat16 is in none of them."""
    facts = cpu_facts()
    words = (facts.get("flags", "") + " " + facts.get("Features", "")).split()  # as x86 and as Arm call it
    return not words or any(word.endswith("bf16") for word in words)
