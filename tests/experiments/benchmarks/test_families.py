"""Every family computes the same with every contestant, and a case says what it costs."""

import pytest
import torch

from moe_search.experiments.benchmarks.families import FAMILIES, Setting
from moe_search.experiments.benchmarks.measuring import measure
from moe_search.spaces.errors import InvalidInputError

TINY = {
    "moe_ffn": (32, 8, 2, 16),
    "attention": (16, 4, 2, 8),
    "loss_head": (16, 50),
    "rms_norm": (24,),
    "rotary": (16, 2, 8),
    "router": (32, 8, 2),
}
"""A shape that takes milliseconds; a new family needs one here."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES.names())
def test_all_contestants_agree(name: str, dtype: str) -> None:
    family = FAMILIES.get(name)()
    case = family.case(TINY[name], Setting(tokens=64, dtype=dtype))
    outcome = measure(case, rounds=1, threads=1, device=torch.device("cpu"))
    assert len(family.dimensions) == len(TINY[name]) == len(case.shape)
    kinds = {one.kind for one in outcome.measured}
    assert kinds == ({"ours", "anchor", "peak"} if case.flops else {"ours", "anchor"})
    assert outcome.of(case.baseline) is not None
    errors = {one.name: one.error for one in outcome.measured if one.error is not None}
    assert len(errors) >= 2
    assert max(errors.values()) < (1e-5 if dtype == "float32" else 0.04), errors


@pytest.mark.parametrize("name", FAMILIES.names())
def test_default_shapes_are_possible(name: str) -> None:
    family = FAMILIES.get(name)()
    assert all(len(shape) == len(family.dimensions) for shape in family.defaults)


def test_the_layer_keeps_what_the_bound_allows() -> None:
    case = FAMILIES.get("moe_ffn")().case((32, 4, 2, 64), Setting(tokens=256))
    outcome = measure(case, rounds=1, threads=1, device=torch.device("cpu"))
    assert case.flops == 18 * 256 * 2 * 32 * 64
    assert case.kept_bound == 256 * 2 * 2 * 64 + 256 * 32
    grouped, eager = outcome.of("grouped"), outcome.of("transformers eager")
    assert grouped is not None
    assert grouped.kept is not None
    assert grouped.kept < 1.25 * case.kept_bound, "padding of slices to 32 rows, and indices"
    assert eager is None or (eager.kept is not None and eager.kept > 1.5 * case.kept_bound)


def test_a_skewed_case_times_our_backends_once_more() -> None:
    case = FAMILIES.get("moe_ffn")().case((32, 64, 2, 16), Setting(tokens=128, skew=8))
    outcome = measure(case, rounds=1, threads=1, device=torch.device("cpu"))
    skewed = [one.name for one in outcome.measured if one.name.endswith("skew 8x")]
    assert "grouped skew 8x" in skewed
    assert outcome.facts["skewed_empty_experts"] >= 16


@pytest.mark.parametrize(
    ("name", "shape", "tokens"),
    [
        ("moe_ffn", (32, 4, 8, 16), 64),
        ("attention", (16, 4, 3, 8), 64),
        ("attention", (16, 4, 2, 8), 50),
        ("rotary", (16, 4, 7), 64),
    ],
)
def test_impossible_shapes_are_refused(name: str, shape: tuple[int, ...], tokens: int) -> None:
    with pytest.raises(InvalidInputError):
        FAMILIES.get(name)().case(shape, Setting(tokens=tokens))
