"""Allocation of experts over depth: totals, bounds, order, and the named schedules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.schedule import NAMED_SCHEDULES, CapacitySchedule, allocate

coefficients = st.floats(-2, 2, allow_nan=False)
schedules = st.builds(CapacitySchedule, tilt=coefficients, bow=coefficients, wave=coefficients)


@st.composite
def feasible(draw: st.DrawFn) -> dict[str, int | None]:
    n_layers, multiple = draw(st.integers(1, 64)), draw(st.sampled_from([1, 2, 3, 8]))
    low = draw(st.integers(0, 8))
    high = draw(st.one_of(st.none(), st.integers(low, low + 100)))
    units = draw(st.integers(n_layers * low, n_layers * (high if high is not None else low + 200)))
    return {
        "n_layers": n_layers,
        "total": units * multiple,
        "minimum": low * multiple,
        "maximum": None if high is None else high * multiple,
        "multiple": multiple,
    }


@given(schedule=schedules, case=feasible())
def test_total_bounds_multiples_and_order(schedule: CapacitySchedule, case: dict[str, int]) -> None:
    experts = allocate(schedule, **case)
    assert len(experts) == case["n_layers"]
    assert sum(experts) == case["total"]
    assert all(n % case["multiple"] == 0 for n in experts)
    assert min(experts) >= case["minimum"]
    if case["maximum"] is not None:
        assert max(experts) <= case["maximum"]
    capacity = schedule.capacities(case["n_layers"])
    for i, n in enumerate(experts):
        for j, m in enumerate(experts):
            if capacity[i] > capacity[j] * (1 + 1e-9):
                assert n >= m


@given(schedule=schedules, n_layers=st.integers(1, 40), mean=st.integers(20, 200))
def test_unbounded_shares_are_proportional_within_one(schedule: CapacitySchedule, n_layers: int, mean: int) -> None:
    experts = allocate(schedule, n_layers, mean * n_layers, minimum=0)
    ideal = mean * schedule.capacities(n_layers)
    assert np.all(np.abs(np.array(experts) - ideal) < 1 + 1e-6)


def test_named_schedules() -> None:
    experts = {name: allocate(schedule, 9, 9 * 32, minimum=2) for name, schedule in NAMED_SCHEDULES.items()}
    assert experts["uniform"] == (32,) * 9
    assert experts["descending"] == tuple(sorted(experts["descending"], reverse=True))
    assert experts["descending"][0] > 1.5 * experts["descending"][-1]
    assert experts["ascending"] == experts["descending"][::-1]
    middle = experts["pyramid"].index(max(experts["pyramid"]))
    assert middle == 4
    assert experts["inverted_pyramid"].index(min(experts["inverted_pyramid"])) == 4
    peaks = [i for i in range(9) if experts["wave"][i] >= max(experts["wave"]) - 1]
    assert peaks == [0, 4, 8]


def test_minimum_flattens_rather_than_fails() -> None:
    assert allocate(CapacitySchedule(tilt=2), 4, 8, minimum=2) == (2, 2, 2, 2)
    tight = allocate(CapacitySchedule(tilt=2), 4, 12, minimum=2)
    assert tight[-1] == 2
    assert tight[0] > 2


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ({"n_layers": 4, "total": 7, "minimum": 2}, "8 experts"),
        ({"n_layers": 4, "total": 41, "minimum": 1, "maximum": 10}, "40 experts"),
        ({"n_layers": 4, "total": 30, "minimum": 1, "multiple": 8}, "32 experts"),
    ],
)
def test_impossible_totals_name_the_nearest(arguments: dict[str, int], fix: str) -> None:
    with pytest.raises(InvalidInputError, match=f"cannot be distributed.*nearest fix: {fix}"):
        allocate(CapacitySchedule(), **arguments)
