"""What the kernel families share: the choice of a backend, and what a backend refuses."""

import pytest
import torch

from moe_search.kernels.arguments import check_compiled, check_finite
from moe_search.kernels.backends import compiled_or
from moe_search.kernels.native.library import NativeLibrary

MISSING = NativeLibrary(None, "portable", "there is no C++ compiler")


def test_the_fallback_comes_with_its_reason() -> None:
    def library() -> NativeLibrary:
        return MISSING

    assert compiled_or("slow", library, "cuda", torch.float32) == ("slow", "there is no compiled backend for cuda")
    assert compiled_or("slow", library, "cpu", torch.float64)[1] == "the compiled backend does not know torch.float64"
    assert compiled_or("slow", library, "cpu", torch.bfloat16) == ("slow", MISSING.reason)


@pytest.mark.parametrize(
    ("message", "x", "default"),
    [
        ("^x is on meta; backend 'cpu' runs on the CPU", torch.zeros(1, device="meta"), "cpu"),
        ("^x is torch.float16; backend 'cpu' knows float32 and bfloat16", torch.zeros(1, dtype=torch.float16), "cpu"),
        (r"^backend is 'cpu', which is not available: there is no C\+\+ compiler", torch.zeros(1), "slow"),
    ],
)
def test_the_compiled_backend_says_what_it_cannot_take(message: str, x: torch.Tensor, default: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_compiled("x", x, (default, MISSING.reason))


def test_the_first_argument_that_is_not_finite_is_named() -> None:
    good, bad = torch.ones(3, 2), torch.tensor([1.0, float("nan")])
    check_finite(a=good, b=torch.empty(0))
    with pytest.raises(ValueError, match=r"^b has values that are not finite; its range is \[nan, nan\]"):
        check_finite(a=good, b=bad, c=bad)
