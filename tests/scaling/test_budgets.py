from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_search.scaling.budgets import group_by_compute


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e12, 1e24), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_every_run_is_in_one_group_and_no_group_is_wider_than_asked(flops: list[float], decades: float) -> None:
    values = np.array(flops)
    groups = group_by_compute(values, decades)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(flops)))
    spans = [(values[rows].min(), values[rows].max()) for rows in groups]
    assert all(np.log10(high / low) <= decades + 1e-12 for low, high in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.02))
def test_budgets_with_gaps_between_them_come_out_whole(seed: int, jitter: float) -> None:
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 9, size=5)
    budget = rng.permutation(np.repeat(np.arange(5), count))
    flops = 1e18 * 3.0**budget * 10 ** (jitter * rng.uniform(-1, 1, len(budget)))
    groups = group_by_compute(flops, 0.1)
    assert [set(budget[rows]) for rows in groups] == [{b} for b in range(5)]
    assert [len(rows) for rows in groups] == count.tolist()


def test_stragglers_are_peeled_off_a_dense_budget() -> None:
    dense = 1e20 * np.geomspace(0.97, 1.03, 9)
    flops = np.concatenate([dense, [1.4e20, 1.6e20]])
    assert [len(rows) for rows in group_by_compute(flops, 0.1)] == [9, 2]
