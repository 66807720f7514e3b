"""Wrong arguments are refused with a ValueError that names them."""

import pytest
import torch
from torch import Tensor

from moe_search.kernels.attention import causal_attention


def arguments() -> dict[str, Tensor | str]:
    return {"q": torch.zeros(2, 5, 4, 8), "k": torch.zeros(2, 5, 2, 8), "v": torch.zeros(2, 5, 2, 8)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("q", torch.zeros(5, 4, 8)),
        ("q", torch.zeros(2, 5, 0, 8)),
        ("q", torch.zeros(2, 5, 4, 0)),
        ("q", torch.zeros(2, 5, 3, 8)),
        ("q", torch.zeros(2, 5, 4, 8, dtype=torch.float16)),
        ("k", torch.zeros(2, 5, 16)),
        ("k", torch.zeros(2, 6, 2, 8)),
        ("k", torch.zeros(2, 5, 2, 7)),
        ("k", torch.zeros(2, 5, 2, 8, dtype=torch.float64)),
        ("k", torch.zeros(2, 5, 2, 8, device="meta")),
        ("v", torch.zeros(2, 5, 4, 8)),
        ("v", torch.zeros(1, 5, 2, 8)),
        ("v", torch.zeros(2, 5, 2, 8, dtype=torch.bfloat16)),
        ("v", torch.zeros(2, 5, 2, 8, device="meta")),
        ("q", torch.full((2, 5, 4, 8), torch.nan)),
        ("k", torch.full((2, 5, 2, 8), torch.inf)),
        ("v", torch.full((2, 5, 2, 8), torch.nan)),
        ("scale", torch.nan),
        ("backend", "flash"),
    ],
)
def test_named_in_the_message(name: str, value: Tensor | str) -> None:
    changed = {**arguments(), name: value}
    with pytest.raises(ValueError, match=f"^{name} "):
        causal_attention(**changed)  # type: ignore[arg-type]


def test_right_arguments_pass() -> None:
    assert causal_attention(**arguments()).shape == (2, 5, 4, 8)  # type: ignore[arg-type]


def test_message_names_the_known_backends() -> None:
    with pytest.raises(ValueError, match="known: auto, reference, sdpa, cpu"):
        causal_attention(**arguments(), backend="abacus")  # type: ignore[arg-type]


def test_the_compiled_backend_refuses_what_it_does_not_know() -> None:
    q, k, v = torch.zeros(3, 1, 5, 2, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^q is torch.float64; backend 'cpu' knows float32 and bfloat16"):
        causal_attention(q, k, v, backend="cpu")
