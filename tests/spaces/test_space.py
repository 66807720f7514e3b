"""The search space: what the YAML may say, what is drawn from it, and its coordinates."""

from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import ShapeRules, expert_counts, resolve
from moe_search.spaces.schedule import NAMED_SCHEDULES
from moe_search.spaces.space import SearchSpace

DOMAINS = ("books", "code", "docs", "laws", "math", "news", "talk", "web")
BLOCK = """
granularity: {low: 1, high: 8, log: true}
activation_ratio: {low: 0.0625, high: 0.5, log: true}
n_experts: {choices: [8, 16, 32, 64]}
active_width: {low: 0.5, high: 2}
n_shared_experts: {choices: [0, 1]}
schedule: {choices: [uniform, descending, ascending, pyramid, inverted_pyramid, wave]}
mixture: {domains: [books, code, docs, laws, math, news, talk, web]}
controls: {dense: true, random_router: true}
"""
QUICKSTART = SearchSpace.model_validate(yaml.safe_load(BLOCK))


def _space(**values: Any) -> SearchSpace:
    return SearchSpace.model_validate({"mixture": {"domains": list(DOMAINS)}, **values})


def test_round_trip() -> None:
    assert SearchSpace.model_validate_json(QUICKSTART.model_dump_json()) == QUICKSTART
    assert "controls" in QUICKSTART.model_dump()
    assert QUICKSTART.replace(granularity=2.0).granularity == 2.0


def test_samples_are_feasible_distinct_and_deterministic() -> None:
    designs = QUICKSTART.sample(64, seed=1)
    assert designs == QUICKSTART.sample(64, seed=1)
    assert designs[:16] == QUICKSTART.sample(16, seed=1)
    assert not set(designs) & set(QUICKSTART.sample(64, seed=2))
    assert len(set(designs)) == 64
    for design in designs:
        counts = expert_counts(design)
        assert 0.5 <= counts.active_width <= 2
        assert 1 <= counts.top_k <= counts.n_experts == design.n_experts
        assert design.schedule in NAMED_SCHEDULES.values()


def test_samples_resolve_at_every_rung() -> None:
    for design in QUICKSTART.sample(100, seed=0):
        for n_active in (60_000, 200_000, 600_000, 10**10):
            resolve(design, Scale(n_active=n_active, tokens=1), ShapeRules())


def test_samples_fill_the_space() -> None:
    designs = QUICKSTART.sample(256, seed=0)
    rows = np.array([QUICKSTART.features(design) for design in designs])
    by_name = dict(zip(QUICKSTART.feature_names, rows.T, strict=True))
    for name in ("granularity", "activation_ratio"):
        assert by_name[name].min() < 0.1
        assert by_name[name].max() > 0.9
    for value in (8, 16, 32, 64):
        assert sum(design.n_experts == value for design in designs) > 20
    schedules = [design.schedule for design in designs]
    assert all(schedules.count(schedule) > 20 for schedule in NAMED_SCHEDULES.values())
    weights = np.array([design.mixture.weights for design in designs])
    assert weights.mean(axis=0) == pytest.approx(np.full(8, 1 / 8), abs=0.03)
    assert (weights.max(axis=1) > 0.75).sum() >= 256 // 8  # every eighth is near a corner
    assert all((weights[:, i] > 0.75).any() for i in range(8))


def test_only_declared_knobs_vary() -> None:
    space = SearchSpace.model_validate({"mixture": {"web": 0.25, "code": 0.75}, "granularity": {"low": 2, "high": 4}})
    designs = space.sample(10, seed=0)
    assert len({design.granularity for design in designs}) == 10
    assert len({design.replace(granularity=1.0) for design in designs}) == 1
    assert designs[0].mixture == Mixture.model_validate({"web": 0.25, "code": 0.75})
    assert space.replace(control_kinds={"dense": False, "random_router": False}).feature_names == ("granularity",)


def test_floor_and_cap_hold_everywhere() -> None:
    space = _space(mixture={"domains": list(DOMAINS), "floor": 0.05, "cap": 0.3})
    designs = [*space.sample(40, seed=0), space.center(), *space.controls()]
    designs += space.neighbours(designs[0], 20, seed=0)
    for design in designs:
        assert min(design.mixture.weights) >= 0.05 - 1e-9
        assert max(design.mixture.weights) <= 0.3 + 1e-9


def test_free_schedule_and_integer_ranges() -> None:
    space = _space(
        granularity=4,
        schedule={"tilt": {"low": -1, "high": 1}, "bow": 0.2},
        first_dense_layers={"low": 0, "high": 2},
    )
    designs = space.sample(60, seed=0)
    assert {design.first_dense_layers for design in designs} == {0, 1, 2}
    assert all(design.schedule.bow == 0.2 and design.schedule.wave == 0 for design in designs)
    assert min(design.schedule.tilt for design in designs) < -0.8
    assert "tilt" in space.feature_names
    assert "bow" not in space.feature_names
    assert space.center().schedule.tilt == 0


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), index=st.integers(0, 31))
def test_neighbours_are_near_feasible_and_different(seed: int, index: int) -> None:
    design = QUICKSTART.sample(32, seed=0)[index]
    neighbours = QUICKSTART.neighbours(design, 12, seed)
    assert len(neighbours) == len(set(neighbours)) == 12
    assert neighbours == QUICKSTART.neighbours(design, 12, seed)
    for neighbour in neighbours:
        assert neighbour != design
        assert QUICKSTART.feasible(neighbour)
        changed = [
            name
            for name in ("granularity", "activation_ratio", "n_experts", "n_shared_experts", "schedule", "mixture")
            if getattr(neighbour, name) != getattr(design, name)
        ]
        assert 1 <= len(changed) <= 3
        if "n_experts" in changed:
            assert {neighbour.n_experts, design.n_experts} in ({8, 16}, {16, 32}, {32, 64})


def test_neighbours_of_controls_stay_controls() -> None:
    dense, random_router = QUICKSTART.controls()
    for neighbour in QUICKSTART.neighbours(dense, 8, seed=0):
        assert neighbour.replace(mixture=dense.mixture) == dense
    for neighbour in QUICKSTART.neighbours(random_router, 8, seed=0):
        assert neighbour.routing.router == "random"


def test_neighbours_of_a_space_without_freedom_are_none() -> None:
    space = SearchSpace(mixture=Mixture.uniform(DOMAINS), granularity=4)
    assert space.neighbours(space.center(), 5, seed=0) == []


def test_features_are_coordinates_in_the_unit_cube() -> None:
    designs = [*QUICKSTART.sample(50, seed=0), *QUICKSTART.controls(), QUICKSTART.center()]
    rows = np.array([QUICKSTART.features(design) for design in designs])
    assert rows.shape == (53, len(QUICKSTART.feature_names))
    assert np.all((rows >= 0) & (rows <= 1))
    weights = [i for i, name in enumerate(QUICKSTART.feature_names) if name.startswith("sqrt_weight/")]
    assert (rows[:, weights] ** 2).sum(axis=1) == pytest.approx(1)
    assert QUICKSTART.feature_names[:4] == ("granularity", "activation_ratio", "n_experts", "n_shared_experts")
    assert [QUICKSTART.feature_names[i] for i in weights] == [f"sqrt_weight/{domain}" for domain in sorted(DOMAINS)]
    assert len(np.unique(rows, axis=0)) == len(set(designs))


def test_feature_values() -> None:
    design = QUICKSTART.center().replace(granularity=8.0, n_experts=16)
    values = dict(zip(QUICKSTART.feature_names, QUICKSTART.features(design), strict=True))
    assert values["granularity"] == 1
    assert values["n_experts"] == pytest.approx(1 / 3)
    assert values["router=softmax_topk"] == 1
    assert values["router=random"] == values["dense"] == 0
    assert values["sqrt_weight/web"] == pytest.approx(8**-0.5)


def test_center_and_controls() -> None:
    center = QUICKSTART.center()
    assert QUICKSTART.feasible(center)
    assert center.schedule == NAMED_SCHEDULES["uniform"]
    assert center.mixture == Mixture.uniform(DOMAINS)
    dense, random_router = QUICKSTART.controls()
    assert dense.ffn == "dense"
    assert dense.active_width == expert_counts(center).active_width
    assert random_router == center.replace(routing=center.routing.replace(router="random", balancing="none"))
    assert _space(controls={"dense": False, "random_router": False}).controls() == []


def test_center_is_feasible_where_the_middle_is_not() -> None:
    space = _space(
        granularity={"low": 1, "high": 8},
        activation_ratio={"low": 0.05, "high": 0.9},
        n_experts={"choices": [4, 64]},
        active_width={"low": 3, "high": 4},
    )
    assert space.feasible(space.center())


def test_accept_filters_samples_and_neighbours() -> None:
    def few(design: Design) -> bool:
        return design.n_experts == 8

    assert all(design.n_experts == 8 for design in QUICKSTART.sample(10, seed=0, accept=few))
    start = QUICKSTART.sample(1, seed=0, accept=few)[0]
    assert all(design.n_experts == 8 for design in QUICKSTART.neighbours(start, 10, seed=0, accept=few))


def test_infeasible_space_says_so() -> None:
    space = _space(n_experts=8, activation_ratio=0.5, granularity=4, active_width={"low": 1.5, "high": 2})
    with pytest.raises(InvalidInputError, match=r"none is feasible.*widen active_width"):
        space.sample(1, seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"granularitty": 2}, "Extra inputs are not permitted"),
        ({"granularity": {"low": 1, "hihg": 8}}, "hihg"),
        ({"granularity": {"low": 8, "high": 1}}, "low 8 is above high 1; nearest fix: low: 1, high: 8"),
        ({"granularity": {"low": 0, "high": 1, "log": True}}, "low is 0 in a log range; allowed: low > 0"),
        ({"granularity": 0}, "granularity: values from 0 to 0"),
        ({"activation_ratio": {"low": 0.1, "high": 1.5}}, r"allowed: 1e-06 <= activation_ratio <= 1; .*high: 1"),
        ({"n_experts": {"choices": []}}, "choices is empty"),
        ({"n_experts": {"choices": [8, 8]}}, r"name a value twice; nearest fix: \[8\]"),
        ({"n_experts": {"low": 8.2, "high": 8.6}}, "no integer lies between 8.2 and 8.6"),
        ({"n_experts": 8, "active_width": 1.0}, "active_width is fixed, but with n_experts declared"),
        ({"schedule": "zigzag"}, "unknown schedule 'zigzag'; allowed: uniform, descending"),
        ({"schedule": {"choices": ["wave", "zigzag"]}}, "unknown schedule 'zigzag'"),
        ({"schedule": {"tilt": {"low": -3, "high": 1}}}, "allowed: -2 <= tilt <= 2; nearest fix: low: -2, high: 1"),
        ({"mixture": {"domains": []}}, "at least 1 item"),
        ({"mixture": {"domains": ["a", "a"]}}, "domains name one twice: a, a; nearest fix: a"),
        (
            {"mixture": {"domains": ["a", "b", "c"], "floor": 0.4}},
            "allowed: 0 <= floor <= 0.3333; nearest fix: floor: 0.33",
        ),
        (
            {"mixture": {"domains": ["a", "b", "c"], "cap": 0.3}},
            "allowed: 0.3333 <= cap <= 1; nearest fix: cap: 0.3334",
        ),
        ({"mixture": {"a": 0.5, "b": 0.6}}, "weights sum to 1.1.*divide every weight by the sum: a: 0.4545"),
    ],
)
def test_errors_name_the_field_and_the_fix(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _space(**values)
