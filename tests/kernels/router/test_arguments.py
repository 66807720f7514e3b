"""Wrong arguments are refused with a ValueError that names them."""

import pytest
import torch
from torch import Tensor

from moe_search.kernels.router import route


def arguments() -> dict[str, Tensor | str | int]:
    return {"x": torch.zeros(6, 4), "weight": torch.zeros(5, 4), "selection_bias": torch.zeros(5), "top_k": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", torch.zeros(6)),
        ("x", torch.zeros(6, 4, dtype=torch.float16)),
        ("x", torch.zeros(6, 4, dtype=torch.int64)),
        ("weight", torch.zeros(5, 3)),
        ("weight", torch.zeros(5)),
        ("weight", torch.zeros(5, 4, dtype=torch.int64)),
        ("weight", torch.zeros(5, 4, device="meta")),
        ("x", torch.full((6, 4), torch.nan)),
        ("weight", torch.full((5, 4), -torch.inf)),
        ("selection_bias", torch.full((5,), torch.nan)),
        ("selection_bias", torch.full((5,), torch.inf)),
        ("selection_bias", torch.zeros(4)),
        ("selection_bias", torch.zeros(5, 1)),
        ("selection_bias", torch.zeros(5, dtype=torch.int64)),
        ("selection_bias", torch.zeros(5, device="meta")),
        ("top_k", 0),
        ("top_k", 6),
        ("score", "tanh"),
        ("backend", "triton"),
    ],
)
def test_named_in_the_message(name: str, value: Tensor | str | int) -> None:
    changed = {**arguments(), name: value}
    with pytest.raises(ValueError, match=f"^{name} "):
        route(**changed)  # type: ignore[arg-type]


def test_right_arguments_pass() -> None:
    assert route(**arguments()).gates.shape == (6, 2)  # type: ignore[arg-type]


def test_a_bias_of_minus_infinity_closes_an_expert() -> None:
    bias = torch.tensor([0.0, -torch.inf, 0.0, 0.0, 0.0])
    routed = route(**{**arguments(), "selection_bias": bias, "top_k": 4})  # type: ignore[arg-type]
    assert not (routed.expert_index == 1).any()


def test_no_experts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^top_k is 1; expected 1 to 0"):
        route(torch.zeros(6, 4), torch.zeros(0, 4), top_k=1)


def test_compiled_backend_says_what_it_does_not_do() -> None:
    with pytest.raises(ValueError, match=r"^x is torch.float64; backend 'cpu' knows float32 and bfloat16"):
        route(torch.zeros(6, 4).double(), torch.zeros(5, 4).double(), top_k=1, backend="cpu")
    with pytest.raises(ValueError, match=r"^x is on meta; backend 'cpu' runs on the CPU"):
        route(torch.zeros(6, 4, device="meta"), torch.zeros(5, 4, device="meta"), top_k=1, backend="cpu")
