"""Wrong arguments are refused with a ValueError that names them."""

import pytest
import torch
from torch import Tensor

from moe_search.kernels.moe_ffn import moe_ffn


def arguments() -> dict[str, Tensor | str]:
    return {
        "x": torch.zeros(6, 4),
        "w_up": torch.zeros(3, 10, 4),
        "w_down": torch.zeros(3, 5, 4),
        "expert_index": torch.zeros(6, 2, dtype=torch.int64),
        "gates": torch.zeros(6, 2),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", torch.zeros(6)),
        ("x", torch.zeros(6, 4, dtype=torch.float16)),
        ("w_up", torch.zeros(3, 5, 4)),
        ("w_up", torch.zeros(2, 10, 4)),
        ("w_up", torch.zeros(3, 10, 4, dtype=torch.float64)),
        ("w_down", torch.zeros(3, 5, 3)),
        ("w_down", torch.zeros(3, 5, 4, dtype=torch.bfloat16)),
        ("w_down", torch.zeros(5, 4)),
        ("w_down", torch.zeros(3, 5, 4, device="meta")),
        ("expert_index", torch.zeros(6, dtype=torch.int64)),
        ("expert_index", torch.zeros(5, 2, dtype=torch.int64)),
        ("expert_index", torch.zeros(6, 2)),
        ("expert_index", torch.full((6, 2), 3)),
        ("expert_index", torch.full((6, 2), -1)),
        ("gates", torch.zeros(6, 3)),
        ("gates", torch.zeros(6, 2, dtype=torch.int64)),
        ("activation", "tanh"),
        ("backend", "cuda"),
    ],
)
def test_named_in_the_message(name: str, value: Tensor | str) -> None:
    changed = {**arguments(), name: value}
    with pytest.raises(ValueError, match=f"^{name} "):
        moe_ffn(**changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["x", "w_up", "w_down", "gates"])
def test_what_is_not_finite_is_named(name: str, value: float) -> None:
    changed = arguments()
    changed[name].view(-1)[3] = value  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=rf"^{name} has values that are not finite; its range is \["):
        moe_ffn(**changed)  # type: ignore[arg-type]
    moe_ffn(**changed, finite=True)  # type: ignore[arg-type]


def test_right_arguments_pass() -> None:
    assert moe_ffn(**arguments()).shape == (6, 4)  # type: ignore[arg-type]


def test_plain_activation_wants_one_half() -> None:
    with pytest.raises(ValueError, match=r"^w_up has shape \(3, 10, 4\); expected \(3, 5, 4\)"):
        moe_ffn(**arguments(), activation="relu2")  # type: ignore[arg-type]


def test_message_names_the_known_backends() -> None:
    with pytest.raises(ValueError, match="known: auto, reference, grouped"):
        moe_ffn(**arguments(), backend="triton_on_my_toaster")  # type: ignore[arg-type]
