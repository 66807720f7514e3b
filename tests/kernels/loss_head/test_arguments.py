"""Wrong arguments are refused with a ValueError that names them."""

import pytest
import torch
from torch import Tensor

from moe_search.kernels.loss_head import linear_cross_entropy, sums_by_group


def arguments() -> dict[str, Tensor | str]:
    return {"hidden": torch.zeros(6, 4), "weight": torch.zeros(5, 4), "targets": torch.zeros(6, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", torch.zeros(6)),
        ("hidden", torch.zeros(6, 4, dtype=torch.float16)),
        ("hidden", torch.zeros(6, 4, dtype=torch.int64)),
        ("weight", torch.zeros(5, 3)),
        ("weight", torch.zeros(5)),
        ("weight", torch.zeros(0, 4)),
        ("weight", torch.zeros(5, 4, dtype=torch.int32)),
        ("weight", torch.zeros(5, 4, device="meta")),
        ("targets", torch.zeros(5, dtype=torch.int64)),
        ("targets", torch.zeros(6, 1, dtype=torch.int64)),
        ("targets", torch.zeros(6, dtype=torch.int32)),
        ("hidden", torch.full((6, 4), torch.inf)),
        ("weight", torch.full((5, 4), torch.nan)),
        ("targets", torch.full((6,), 5)),
        ("targets", torch.full((6,), -1)),
        ("backend", "triton"),
    ],
)
def test_named_in_the_message(name: str, value: Tensor | str) -> None:
    changed = {**arguments(), name: value}
    with pytest.raises(ValueError, match=f"^{name} "):
        linear_cross_entropy(**changed)  # type: ignore[arg-type]


def test_right_arguments_pass() -> None:
    total, nats = linear_cross_entropy(**arguments())  # type: ignore[arg-type]
    assert total.shape == ()
    assert nats.shape == (6,)


def test_compiled_backend_says_what_it_does_not_do() -> None:
    hidden, weight, targets = torch.zeros(6, 4).double(), torch.zeros(5, 4).double(), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^hidden is torch.float64; backend 'cpu' knows float32 and bfloat16"):
        linear_cross_entropy(hidden, weight, targets, backend="cpu")
    meta = [tensor.to("meta") for tensor in (hidden.float(), weight.float(), targets)]
    with pytest.raises(ValueError, match=r"^hidden is on meta; backend 'cpu' runs on the CPU"):
        linear_cross_entropy(*meta, backend="cpu")


@pytest.mark.parametrize("groups", [torch.zeros(3, dtype=torch.int64), torch.zeros(4)])
def test_groups_are_named_in_the_message(groups: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^groups "):
        sums_by_group(torch.zeros(4), groups, 2)
