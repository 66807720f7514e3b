import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.proxies.training.schedule import Horizon, branch_rate, plan_horizons, trunk_rate
from moe_search.spaces.errors import InvalidInputError


def test_trunk_warms_up_linearly_and_stays() -> None:
    assert [trunk_rate(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert trunk_rate(0, 0) == 1.0


@pytest.mark.parametrize("shape", ["sqrt", "linear"])
def test_branch_falls_strictly_between_trunk_and_zero(shape: str) -> None:
    horizon = Horizon(wanted_tokens=100, steps=100, branch_step=80)
    rates = [branch_rate(step, horizon, shape) for step in range(80, 100)]  # type: ignore[arg-type]
    assert all(1 > high > low > 0 for high, low in itertools.pairwise(rates))


def test_branch_formulas_half_way() -> None:
    horizon = Horizon(wanted_tokens=7, steps=7, branch_step=0)
    assert branch_rate(3, horizon, "linear") == 0.5
    assert branch_rate(1, horizon, "sqrt") == 0.5


@given(
    horizons=st.sets(st.integers(20, 500), min_size=1, max_size=5),
    share=st.floats(0.05, 0.5),
    batch=st.sampled_from([64, 2048]),
)
def test_plan_keeps_order_and_share(horizons: set[int], share: float, batch: int) -> None:
    plans = plan_horizons([steps * batch for steps in horizons], batch_tokens=batch, decay_share=share, warmup_steps=0)
    assert [plan.steps for plan in plans] == sorted(horizons)
    for plan in plans:
        decay = plan.steps - plan.branch_step
        assert decay >= 1
        assert abs(decay - share * plan.steps) <= 1


def test_plan_rounds_to_whole_steps() -> None:
    (plan,) = plan_horizons([200_000], batch_tokens=2048, decay_share=0.2, warmup_steps=20)
    assert (plan.wanted_tokens, plan.steps, plan.branch_step) == (200_000, 98, 78)


@pytest.mark.parametrize(
    ("horizons", "message"),
    [([], "no token horizon"), ([2000], "too short"), ([20_480, 20_500], "both 10 steps")],
)
def test_plan_refuses(horizons: list[int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        plan_horizons(horizons, batch_tokens=2048, decay_share=0.2, warmup_steps=4)


@given(warmup=st.integers(0, 50), share=st.floats(0.05, 0.6))
def test_the_fix_of_a_short_horizon_is_accepted(warmup: int, share: float) -> None:
    with pytest.raises(InvalidInputError) as caught:
        plan_horizons([1], batch_tokens=100, decay_share=share, warmup_steps=warmup)
    plan_horizons([int(caught.value.fix)], batch_tokens=100, decay_share=share, warmup_steps=warmup)
