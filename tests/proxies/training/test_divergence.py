import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.proxies.training.divergence import DivergedError, LossMonitor, LossState


def monitor(state: LossState | None = None, grace_steps: int = 5) -> LossMonitor:
    return LossMonitor(bound=6.0, margin=1.0, grace_steps=grace_steps, state=state or LossState())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_even_during_warm_up(bad: float) -> None:
    with pytest.raises(DivergedError, match="at step 2"):
        monitor().update(0, [8.0, bad])


def test_high_losses_are_tolerated_during_warm_up_only() -> None:
    watch = monitor()
    watch.update(0, [8.0] * 5)
    with pytest.raises(DivergedError, match="unigram bound"):
        watch.update(5, [8.0])


def test_one_spike_is_smoothed_away() -> None:
    watch = monitor()
    watch.update(0, [8.0, *[5.0] * 40, 12.0, *[5.0] * 20])
    assert watch.train_loss == 5.0


@given(losses=st.lists(st.floats(0.1, 20), min_size=1, max_size=60), cuts=st.sets(st.integers(1, 59)))
def test_the_decision_does_not_depend_on_when_the_losses_are_looked_at(losses: list[float], cuts: set[int]) -> None:
    def outcome(borders: list[int]) -> str | LossState:
        state = LossState()
        try:
            for begin, end in zip([0, *borders], [*borders, len(losses)], strict=True):
                watch = monitor(LossState.model_validate_json(state.model_dump_json()))
                watch.update(begin, losses[begin:end])
                state = watch.state
        except DivergedError as error:
            return str(error)
        return state

    assert outcome(sorted(cut for cut in cuts if cut < len(losses))) == outcome([])
