import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moe_search.proxies.training.recipe import (
    ADDED_LATER,
    BatchRule,
    LearningRateRule,
    TrainingRecipe,
    batch_tokens,
    learning_rate,
)


def test_the_rule_is_its_equation() -> None:
    rule = LearningRateRule(
        base=0.02, n_active_exponent=-0.5, n_experts_exponent=-0.25, tokens_exponent=0.3, batch_exponent=0.5
    )
    at_centre = {"n_active": 2.0**18, "n_experts": 8.0, "tokens": 2.0**19, "batch": 2048.0}
    assert rule(**at_centre) == pytest.approx(0.02)
    assert rule(**{**at_centre, "n_active": 2.0**20}) == pytest.approx(0.01)
    assert rule(**{**at_centre, "n_experts": 128}) == pytest.approx(0.01)
    assert rule(**{**at_centre, "tokens": 2.0**21}) == pytest.approx(0.02 * 4**0.3)
    assert rule(**{**at_centre, "batch": 8192}) == pytest.approx(0.04)
    assert rule(**{**at_centre, "n_experts": 0}) == rule(**{**at_centre, "n_experts": 1}), "dense is one expert"


def test_step_law_batch_between_bounds_and_a_power_of_two() -> None:
    rule = BatchRule()
    assert rule(tokens=1e5) == 2048
    assert rule(tokens=1e9) == 2 ** round(math.log2(0.58 * 1e9**0.571))
    assert rule(tokens=1e30) == 2**22


@given(n_active=st.integers(10_000, 10**9), seq_len=st.sampled_from([64, 100, 128, 4096]))
def test_a_batch_is_whole_sequences(n_active: int, seq_len: int) -> None:
    tokens = batch_tokens(TrainingRecipe(), n_active=n_active, seq_len=seq_len)
    assert tokens >= seq_len
    assert tokens % seq_len == 0
    wanted = BatchRule()(tokens=TrainingRecipe().reference_tokens_per_parameter * n_active)
    assert abs(tokens - wanted) <= max(seq_len / 2, seq_len - wanted)


def test_fixed_values_override_the_rules() -> None:
    recipe = TrainingRecipe(learning_rate=0.5, batch_tokens=1000)
    assert learning_rate(recipe, n_active=10**6, n_experts=8, batch=1000) == 0.5
    assert batch_tokens(recipe, n_active=10**6, seq_len=128) == 1024


def test_the_fingerprint_sees_what_changes_results_and_only_that() -> None:
    recipe = TrainingRecipe()
    assert recipe.replace(checkpoint_seconds=1).fingerprint() == recipe.fingerprint()
    for change in (
        {"learning_rate": 0.1},
        {"warmup_steps": 3},
        {"threads": 2},
        {"evaluation_tokens": 7},
        {"float32_matmul": "exact"},
    ):
        assert recipe.replace(**change).fingerprint() != recipe.fingerprint()
    assert TrainingRecipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_recipe_of_the_time_before_new_fields_loads_and_keeps_its_fingerprint() -> None:
    text = TrainingRecipe(warmup_steps=7).model_dump_json(exclude=set(ADDED_LATER))
    assert TrainingRecipe.model_validate_json(text) == TrainingRecipe(warmup_steps=7)
    assert TrainingRecipe().fingerprint() == "6dab987672bbf04f"


@pytest.mark.parametrize(
    "bad", [{"betas": (0.9, 1.0)}, {"decay_share": 1.0}, {"learning_rate": 0.0}, {"warmup": 5}, {"threads": 0}]
)
def test_impossible_recipes_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainingRecipe.model_validate(bad)
