"""From design and scale to integers: hits the size, keeps the design, says why not."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from moe_search.spaces.accounting import count
from moe_search.spaces.architecture import DenseFFN
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixers import GroupedQueryAttention
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import Resolved, ShapeRules, expert_counts, resolve, run_dimensions
from moe_search.spaces.run import Run, run_key
from moe_search.spaces.schedule import NAMED_SCHEDULES

MIXTURE = Mixture.uniform(("code", "text"))
CPU = ShapeRules()
CLUSTER = ShapeRules(
    head_dim=128,
    query_groups=8,
    d_model_multiple=128,
    d_expert_multiple=128,
    experts_multiple=8,
    min_layers=4,
    vocab_size=128_256,
    seq_len=4096,
)


def _design(**values: Any) -> Design:
    return Design.model_validate({"mixture": MIXTURE, "granularity": 4.0, "activation_ratio": 0.125, **values})


def _resolve(n_active: int, rules: ShapeRules = CPU, **values: Any) -> Resolved:
    return resolve(_design(**values), Scale(n_active=n_active, tokens=1_000), rules)


designs = st.builds(
    _design,
    granularity=st.floats(1, 8),
    activation_ratio=st.floats(1 / 16, 0.5),
    active_width=st.sampled_from([None, 0.5, 1.0, 2.0]),
    n_shared_experts=st.integers(0, 1),
    first_dense_layers=st.integers(0, 1),
    schedule=st.sampled_from(sorted(NAMED_SCHEDULES)),
)
dense_designs = st.builds(lambda width: _design(ffn="dense", active_width=width), st.floats(0.5, 2))


def _sizes(low: float, high: float) -> st.SearchStrategy[int]:
    return st.floats(low, high).map(lambda power: round(10**power))


def _or_skip(design: Design, n_active: int, rules: ShapeRules) -> Resolved:
    try:
        counts = expert_counts(design, rules)
    except InvalidInputError:
        assume(False)
    assert counts.top_k >= 1
    return resolve(design, Scale(n_active=n_active, tokens=1), rules)


@settings(max_examples=200)
@given(design=designs | dense_designs, n_active=_sizes(4.7, 6))
def test_small_sizes_are_hit(design: Design, n_active: int) -> None:
    realised = _or_skip(design, n_active, CPU).realised
    assert abs(realised.n_active_non_embedding / n_active - 1) < 0.2  # nearly all within 10 %: see the next test


@pytest.mark.parametrize(("smallest", "within", "mean"), [(50_000, 0.10, 0.04), (10_000_000, 0.03, 0.01)])
def test_sizes_are_mostly_hit_closely(smallest: int, within: float, mean: float) -> None:
    misses = []
    for step in range(200):
        n_active = round(smallest * 20 ** (step / 200))
        for granularity in (1, 2, 4, 8):
            realised = _resolve(n_active, granularity=granularity).realised
            misses.append(abs(realised.n_active_non_embedding / n_active - 1))
    assert sorted(misses)[int(0.98 * len(misses))] < within
    assert sum(misses) / len(misses) < mean


@given(design=designs | dense_designs, n_active=_sizes(7, 11))
def test_large_sizes_are_hit(design: Design, n_active: int) -> None:
    rules = ShapeRules(head_dim=64, d_model_multiple=64, d_expert_multiple=8, query_groups=1)
    realised = _or_skip(design, n_active, rules).realised
    assert abs(realised.n_active_non_embedding / n_active - 1) < (0.05 if n_active > 3e7 else 0.08)


@settings(max_examples=200)
@given(design=designs | dense_designs, sizes=st.tuples(_sizes(4.7, 9), st.floats(1, 4)))
@example(design=_design(granularity=8), sizes=(60_000, 1.01))
def test_realised_size_never_falls(design: Design, sizes: tuple[int, float]) -> None:
    small, large = sizes[0], round(sizes[0] * sizes[1])
    lower, upper = _or_skip(design, small, CPU), _or_skip(design, large, CPU)
    assert lower.realised.n_active_non_embedding <= upper.realised.n_active_non_embedding


@settings(max_examples=200)
@given(design=designs, n_active=_sizes(4.7, 12), rules=st.sampled_from([CPU, CLUSTER]))
def test_integers_keep_rules_and_design(design: Design, n_active: int, rules: ShapeRules) -> None:
    assume(rules is CPU or n_active > 1e9)
    resolved = _or_skip(design, n_active, rules)
    architecture, realised = resolved.architecture, resolved.realised
    counts = expert_counts(design, rules)

    assert architecture.d_model % rules.head_dim == 0
    assert architecture.d_model % rules.d_model_multiple == 0
    assert abs(architecture.n_layers - round(rules.depth(architecture.d_model))) <= 2
    for layer in architecture.layers:
        assert isinstance(layer.mixer, GroupedQueryAttention)
        assert layer.mixer.n_heads * layer.mixer.head_dim == architecture.d_model
    dense = [layer for layer in architecture.layers if isinstance(layer.ffn, DenseFFN)]
    assert len(dense) == design.first_dense_layers
    experts = [moe.n_experts for moe in architecture.moe_layers]
    assert sum(experts) == counts.n_experts * len(experts)
    for moe in architecture.moe_layers:
        assert moe.n_experts % rules.experts_multiple == 0
        assert moe.n_experts >= moe.top_k == counts.top_k
        assert moe.n_shared_experts == design.n_shared_experts
        assert moe.d_expert % rules.d_expert_multiple == 0

    moe = architecture.moe_layers[0]
    reference = rules.ffn_ratio * architecture.d_model
    assert realised.granularity == pytest.approx(reference / moe.d_expert)
    tolerance = max(0.16, rules.d_expert_multiple / (reference / design.granularity))
    assert abs(design.granularity / realised.granularity - 1) <= tolerance + 1e-9
    active = moe.top_k + moe.n_shared_experts
    assert realised.active_width == pytest.approx(active * moe.d_expert / reference)
    assert realised.activation_ratio == pytest.approx(active / (counts.n_experts + moe.n_shared_experts))
    assert realised.expansion == pytest.approx(1 / realised.activation_ratio)
    counted = count(architecture)
    assert realised.n_active == counted.n_active
    assert realised.n_total == counted.n_total
    assert realised.n_total_non_embedding >= realised.n_active_non_embedding


@given(design=designs)
def test_round_trip_and_determinism(design: Design) -> None:
    resolved = _or_skip(design, 300_000, CPU)
    assert Resolved.model_validate_json(resolved.model_dump_json()) == resolved
    assert _or_skip(design, 300_000, CPU) == resolved


def test_same_function_at_a_trillion_parameters() -> None:
    resolved = _resolve(
        36_000_000_000, CLUSTER, granularity=9.333, activation_ratio=9 / 257, n_shared_experts=1, first_dense_layers=3
    )
    architecture = resolved.architecture
    assert 5_000 < architecture.d_model < 9_000
    assert 50 < architecture.n_layers < 75
    assert architecture.moe_layers[0].n_experts == 256
    assert resolved.realised.n_total > 5e11


def test_schedules_have_equal_total_and_equal_active() -> None:
    resolved = {name: _resolve(400_000, schedule=name).realised for name in NAMED_SCHEDULES}
    assert len({realised.n_total for realised in resolved.values()}) == 1
    assert len({realised.n_active for realised in resolved.values()}) == 1


def test_given_experts_set_the_active_width() -> None:
    resolved = _resolve(1_000_000, granularity=4, n_experts=32, activation_ratio=0.25, n_shared_experts=1)
    moe = resolved.architecture.moe_layers[0]
    assert (moe.n_experts, moe.top_k, moe.n_shared_experts) == (32, 7, 1)  # 8.25 experts a token, one of them shared
    assert resolved.realised.active_width == pytest.approx(8 / resolved.realised.granularity)


def test_dense_control() -> None:
    resolved = _resolve(500_000, ffn="dense", granularity=1, activation_ratio=1, active_width=1.5)
    assert not resolved.architecture.moe_layers
    assert resolved.realised.n_active == resolved.realised.n_total
    assert resolved.realised.activation_ratio == resolved.realised.expansion == 1
    assert resolved.realised.active_width == pytest.approx(1.5, rel=0.16)
    assert resolved.realised.n_experts == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"granularity": 1, "n_shared_experts": 1}, r"granularity: .*none is routed; allowed: granularity >= 1.5.*= 2"),
        (
            {"n_experts": 8, "activation_ratio": 0.05},
            r"activation_ratio: .*no routed expert; allowed: activation_ratio >= 0.0625.*activation_ratio = 0.125",
        ),
        ({"granularity": 64}, r"granularity: .*rounds to 0; allowed: granularity <= .*granularity = "),
        ({"ffn": "dense", "active_width": 0.001}, r"active_width: .*rounds to 0; allowed: active_width >= "),
        ({"first_dense_layers": 50}, r"first_dense_layers is 50 .*nearest fix: first_dense_layers = \d"),
    ],
)
def test_infeasible_designs_say_why(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        _resolve(100_000, **values)


def test_infeasible_rules_say_why() -> None:
    with pytest.raises(InvalidInputError, match=r"n_experts is 12; allowed: a multiple of 8 .*n_experts = 16"):
        _resolve(100_000, ShapeRules(experts_multiple=8), n_experts=12, activation_ratio=0.5)
    with pytest.raises(InvalidInputError, match=r"top_k would be 16; allowed: top_k <= 8.*granularity = 8"):
        _resolve(1_000_000, ShapeRules(max_top_k=8), granularity=16)
    with pytest.raises(InvalidInputError, match=r"top_k would be 32; allowed: top_k <= 8.*activation_ratio = 0.125"):
        _resolve(1_000_000, ShapeRules(max_top_k=8), granularity=16, n_experts=64, activation_ratio=0.5)
    with pytest.raises(
        InvalidInputError, match=r"n_active: no architecture has 2,000 active.*smallest has .*n_active = "
    ):
        _resolve(2_000, ShapeRules(head_dim=64, d_model_multiple=64))


@pytest.mark.parametrize("n_active", [2_000, 20_000])
def test_nearest_size_of_the_message_is_feasible(n_active: int) -> None:
    rules = ShapeRules(head_dim=64, d_model_multiple=64)
    with pytest.raises(InvalidInputError) as caught:
        _resolve(n_active, rules)
    suggested = int(caught.value.fix.removeprefix("n_active = "))
    assert _resolve(suggested, rules).realised.n_active_non_embedding == suggested


def test_nearest_granularity_of_the_message_is_feasible() -> None:
    with pytest.raises(InvalidInputError) as caught:
        _resolve(100_000, granularity=64)
    suggested = float(caught.value.fix.removeprefix("granularity = "))
    assert _resolve(100_000, granularity=suggested).realised.n_active_non_embedding > 0


def function_calls(work: Callable[[], object]) -> int:
    """Count the calls that some work takes, in Python and into C: effort that is the same on any machine."""
    calls = 0

    def count_call(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count_call)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize(("n_active", "rules", "most"), [(300_000, CPU, 1000), (500_000_000_000, CLUSTER, 4000)])
def test_little_work_so_that_a_search_can_resolve_thousands(n_active: int, rules: ShapeRules, most: int) -> None:
    _resolve(n_active, rules)  # what is cached
    assert 0 < function_calls(lambda: _resolve(n_active + n_active // 1000, rules)) < most  # some 350 and 1200


@pytest.mark.parametrize(
    "values", [{}, {"ffn": "dense", "granularity": 1}, {"first_dense_layers": 1, "schedule": "wave"}]
)
def test_run_dimensions_make_a_run(values: dict[str, Any]) -> None:
    resolved = _resolve(300_000, **values)
    run = Run.model_validate(
        {
            **run_dimensions(resolved),
            "run_key": run_key(resolved.design, resolved.scale, 0, ""),
            "status": "finished",
            "seed": 0,
            "tokens": 1_000,
            "batch_tokens": 256,
            "learning_rate": 1e-3,
            "mixture": MIXTURE,
            "train_flops": 1.0,
            "paid_flops": 1.0,
        }
    )
    assert run.n_active == resolved.realised.n_active
    assert len(run.experts_per_layer) == run.n_layers
    assert sum(run.experts_per_layer) == pytest.approx(run.n_experts * run.n_moe_layers)
    assert run.design_key == resolved.design.fingerprint()
    # A law derives the active FFN width from raw dimensions, for dense models too.
    width = (run.top_k + run.n_shared_experts) * run.d_expert
    assert width == pytest.approx(resolved.realised.active_width * CPU.ffn_ratio * run.d_model)


def test_run_key_tells_runs_apart() -> None:
    design, scale = _design(), Scale(n_active=10, tokens=20)
    keys = {
        run_key(design, scale, 0, "a"),
        run_key(design, scale, 1, "a"),
        run_key(design, scale, 0, "b"),
        run_key(design, Scale(n_active=10, tokens=21), 0, "a"),
        run_key(design, Scale(n_active=102, tokens=0 + 1), 0, "a"),
        run_key(_design(granularity=5), scale, 0, "a"),
    }
    assert len(keys) == 6
    assert run_key(_design(), Scale(n_active=10, tokens=20), 0, "a") in keys
