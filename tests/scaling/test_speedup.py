"""Effective speedup: exact where it is known, joint, honest about what is never reached and about the asymptotes."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from moe_search.scaling.calibration import widen
from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.speedup import Side, Speedup, at_its_ratio, by_compute, speedup, speedup_of_groups
from moe_search.scaling.worlds import draw_world
from moe_search.spaces.errors import InvalidInputError

LAW = get_law("compute")
DENSE = {"E": 1.7, "K": 1000.0, "s": 0.155}
FLOPS = np.geomspace(1e18, 1e21, 12)


def moe(*, faster: float = 1.0, floor: float = 0.0, steeper: float = 0.0) -> dict[str, float]:
    """The dense law with ``faster`` times the compute; the irreducible loss and the exponent move by the others."""
    middle = 3e19
    s = DENSE["s"] + steeper
    k = DENSE["K"] * (faster * middle) ** -DENSE["s"] * middle**s
    return {"E": DENSE["E"] + floor, "K": k, "s": s}


def runs(other: dict[str, float], *, noise: float = 0.0, shared: float = 0.0, seed: int = 0) -> pl.DataFrame:
    """Both groups at the same compute; ``shared`` noise is that of a pair of runs, one in each group."""
    rng = np.random.default_rng(seed)
    parts = []
    common = shared * rng.normal(size=len(FLOPS))
    for name, truth in (("dense", DENSE), ("moe", other)):
        frame = pl.DataFrame({"train_flops": FLOPS, "pair": np.arange(len(FLOPS)), "kind": [name] * len(FLOPS)})
        log_noise = noise * rng.normal(size=len(FLOPS)) + common
        loss = LAW.predict(truth, LAW.variables(frame)) * np.exp(log_noise)
        parts.append(frame.with_columns(loss=pl.Series(loss)))
    return pl.concat(parts)


def compared(frame: pl.DataFrame, law: str = "compute", **options: object) -> Speedup:
    options = {"resamples": 0, "starts": 16, **options}
    return speedup_of_groups(get_law(law), frame, "kind = 'dense'", "kind = 'moe'", **options)  # type: ignore[arg-type]


@settings(max_examples=5, deadline=None)
@given(st.floats(0.2, 8.0))
def test_a_design_with_so_many_times_the_compute_has_that_speedup_everywhere(faster: float) -> None:
    found = compared(runs(moe(faster=faster)))
    np.testing.assert_allclose([point.speedup for point in found.points], faster, rtol=2e-3)
    for point in found.points:
        assert point.needed_flops == pytest.approx(point.train_flops / faster, rel=2e-3)
        assert point.loss == pytest.approx(1.7 + 1000 * point.train_flops**-0.155, rel=1e-6)


def test_a_curve_is_the_solution_of_equal_losses() -> None:
    other = moe(faster=2.0, floor=-0.05, steeper=0.01)
    for point in compared(runs(other), train_flops=np.geomspace(1e18, 1e22, 5)).points:
        loss = DENSE["E"] + DENSE["K"] * point.train_flops ** -DENSE["s"]

        def excess(log_c: float, loss: float = loss) -> float:
            return other["E"] + other["K"] * np.exp(-other["s"] * log_c) - loss

        assert point.needed_flops == pytest.approx(np.exp(brentq(excess, np.log(1e14), np.log(1e26))), rel=5e-3)


def test_what_is_never_reached_is_null_and_said() -> None:
    found = compared(runs(moe(faster=1.0, floor=0.3)), train_flops=np.array([1e18, 1e26]), resamples=50)
    near, far = found.points
    assert near.speedup is not None
    assert near.reached == 1.0
    assert (far.speedup, far.needed_flops, far.low_95, far.high_95, far.reached) == (None, None, None, None, 0.0)
    assert any("kind = 'moe' does not reach the loss" in note and "1e+26" in note for note in found.notes)
    json.dumps(found.to_json(), allow_nan=False)


def test_an_end_that_may_never_be_reached_is_null_while_the_other_is_told() -> None:
    frame = runs(moe(faster=1.0, floor=0.01), noise=0.01, seed=1)
    point = compared(frame, train_flops=np.array([1e25]), resamples=300).points[0]
    assert 0.5 < point.reached < 1.0
    assert point.low_95 is None
    assert point.high_95 is not None


def test_inside_both_groups_of_runs_is_interpolation_and_outside_is_named() -> None:
    found = compared(runs(moe(faster=4.0)), train_flops=np.array([2e18, 1e19, 9e20, 1e22]))
    assert [point.beyond_runs for point in found.points] == [("other",), (), (), ("reference", "other")]
    assert found.interpolated == (1e19, 9e20)
    assert any("2 of 4 points are extrapolated" in note for note in found.notes)


def test_asymptotes_are_said_and_a_difference_is_pointed_at() -> None:
    frame = runs(moe(faster=2.0), noise=0.003)
    free, pinned = (compared(frame, law, resamples=100) for law in ("compute", "compute:E=1.7"))
    assert [one.kind for one in free.asymptotes] == ["free", "free"]
    assert free.notes[0].startswith("kind = 'dense': the irreducible loss is fitted: E = 1.")
    assert any("do not assume the same irreducible loss" in note for note in free.notes)
    assert [one.estimate.value for one in pinned.asymptotes] == [1.7, 1.7]
    assert not any("do not assume" in note for note in pinned.notes)
    integrated = compared(frame, "compute:E=integrated", resamples=100)
    assert [one.kind for one in integrated.asymptotes] == ["integrated", "integrated"]
    assert integrated.points[-1].low_95 != free.points[-1].low_95


def test_a_pinned_asymptote_narrows_the_interval_beyond_the_runs() -> None:
    frame = runs(moe(faster=2.0), noise=0.004, seed=2)
    at = np.array([1e24])
    free, pinned = (
        compared(frame, law, train_flops=at, resamples=300).points[0] for law in ("compute", "compute:E=1.7")
    )
    assert pinned.low_95 is not None
    assert pinned.high_95 is not None
    assert pinned.low_95 < 2 < pinned.high_95
    assert free.high_95 is not None
    assert free.high_95 / (free.low_95 or 1e-6) > 2 * pinned.high_95 / pinned.low_95
    assert pinned.low_80 is not None
    assert pinned.low_95 < pinned.low_80 < 2.2


def test_one_resample_serves_both_groups_so_that_shared_noise_cancels() -> None:
    frame = runs(moe(faster=2.0), noise=0.0005, shared=0.01, seed=3)
    at = np.array([3e19])
    joint, apart = (
        compared(frame, "compute:E=1.7", train_flops=at, resamples=300, cluster=cluster).points[0]
        for cluster in ("pair", None)
    )
    widths = [np.log(point.high_95 / point.low_95) for point in (joint, apart)]
    assert widths[0] < 0.5 * widths[1]


def test_a_shared_irreducible_loss_is_one_value_in_each_draw() -> None:
    frame = runs(moe(faster=2.0), noise=0.004, seed=2)
    at = np.array([1e24])
    own, shared = (
        compared(frame, "compute:E=integrated", train_flops=at, resamples=300, shared=one) for one in (False, True)
    )
    a, b = shared.asymptotes
    assert a.estimate == b.estimate
    assert a.estimate.low is not None
    assert a.estimate.high is not None
    assert a.estimate.low < 1.7 < a.estimate.high
    assert not any("do not assume" in note for note in shared.notes)
    narrow, wide = shared.points[0], own.points[0]
    assert narrow.low_95 is not None
    assert narrow.high_95 is not None
    assert narrow.low_95 < 2 < narrow.high_95
    assert wide.high_95 is not None
    assert wide.high_95 / (wide.low_95 or 1e-6) > 2 * narrow.high_95 / narrow.low_95
    with pytest.raises(InvalidInputError, match=r"integrates over no parameter.*nearest fix: compute:E=integrated"):
        compared(frame, shared=True)
    apart = runs(moe(faster=1.0, floor=0.8), noise=0.0005)
    with pytest.raises(InvalidInputError, match="no value of the shared parameter is probable for all runs"):
        compared(apart, "compute:E=integrated", shared=True, resamples=10)


@pytest.mark.slow
def test_intervals_hold_the_true_speedup() -> None:
    hits = []
    for seed in range(40):
        frame = runs(moe(faster=2.0), noise=0.004, seed=seed)
        point = compared(frame, "compute:E=1.7", train_flops=np.array([1e23]), resamples=200, seed=seed).points[0]
        assert point.low_95 is not None
        assert point.high_95 is not None
        hits.append(point.low_95 <= 2.0 <= point.high_95)
    assert np.mean(hits) >= 0.85


def fine_grained() -> tuple[pl.DataFrame, dict[str, float]]:
    law = get_law("fine_grained")
    truth = dict(law.published["krajewski2024"])
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "n_total_non_embedding": 10 ** rng.uniform(8, 10, 80),
            "tokens": 10 ** rng.uniform(9.5, 11, 80),
            "granularity": rng.choice([1.0, 2, 4, 8, 16], 80),
        }
    )
    loss = law.predict(truth, law.variables(frame)) * np.exp(0.001 * rng.normal(size=80))
    return frame.with_columns(loss=pl.Series(loss)), truth


def test_two_designs_under_one_law_move_together() -> None:
    frame, truth = fine_grained()
    law = get_law("fine_grained")
    fitted = fit(law, frame, resamples=200, starts=32)
    run = pl.DataFrame({"n_total_non_embedding": [1e9], "tokens": [2e10], "granularity": [1.0]})
    coarse, fine = (run.with_columns(granularity=pl.lit(g)) for g in (1.0, 16.0))
    span = (6e17, 6e21)
    sides = [Side(name, fitted, at_its_ratio(one), span) for name, one in (("coarse", coarse), ("fine", fine))]
    found = speedup(sides[0], sides[1], np.array([1.2e20, 1.2e21]))
    for point in found.points:
        scale = np.sqrt(point.train_flops / 1.2e20)

        def predicted(g: float, scale: float) -> float:
            x = {"N": np.array([1e9 * scale]), "D": np.array([2e10 * scale]), "G": np.array([g])}
            return float(law.predict(truth, x)[0])

        target = predicted(1.0, float(scale))

        def excess(log: float, scale: float = float(scale), target: float = target) -> float:
            return predicted(16.0, scale * np.exp(log)) - target

        factor = brentq(excess, -4, 1)
        assert point.low_95 is not None
        assert point.high_95 is not None
        assert point.low_95 < np.exp(-2 * factor) < point.high_95
        assert point.high_95 / point.low_95 < 1.5
    same = speedup(sides[0], sides[0], np.array([1e19, 1e21]))
    for point in same.points:
        np.testing.assert_allclose([point.speedup, point.low_95, point.high_95], 1.0, rtol=1e-3)
    assert not any("do not assume" in note for note in found.notes)


def test_an_error_of_the_form_widens_a_speedup_and_leaves_equal_designs_equal() -> None:
    world = draw_world("chinchilla", seed=4, seed_sd=0.003, curvature=0.006).ladder(80, seed=0)
    narrow = fit(get_law("chinchilla"), world, resamples=200, starts=16)
    wide = widen(narrow, world, resamples=50, starts=8)
    span = (float(world["train_flops"].to_numpy().min()), float(world["train_flops"].to_numpy().max()))
    run = world.sort("train_flops").tail(1)
    larger = run.with_columns(pl.col("n_active") * 3, pl.col("tokens") / 3)
    at = span[1] * np.array([1.0, 100.0, 1e4])
    widths = []
    for fitted in (narrow, wide):
        one, other = (Side("a", fitted, at_its_ratio(row), span) for row in (run, larger))
        for point in speedup(one, one, at).points:
            np.testing.assert_allclose([point.speedup, point.low_95, point.high_95], 1.0, rtol=1e-6)
        point = speedup(one, other, at).points[1]
        assert point.high_95 is not None
        widths.append(point.high_95 / (point.low_95 or 1e-6))
    assert widths[1] > 1.3 * widths[0]


def test_what_cannot_be_compared_is_refused() -> None:
    frame = runs(moe(faster=2.0), noise=0.002)
    with pytest.raises(InvalidInputError, match="24 runs are in several groups"):
        speedup_of_groups(LAW, frame, "train_flops > 0", "train_flops > 1")
    with pytest.raises(InvalidInputError, match="no run meets \"kind = 'none'\""):
        speedup_of_groups(LAW, frame, "kind = 'dense'", "kind = 'none'")
    with pytest.raises(InvalidInputError, match="a design is one run with its compute, not 24 rows"):
        at_its_ratio(frame)
    fits = [fit(LAW, frame, resamples=resamples, starts=8) for resamples in (10, 20)]
    with pytest.raises(InvalidInputError, match="cannot be compared: losses loss and loss, 10 and 20 draws"):
        speedup(*(Side("one", one, by_compute, (1e18, 1e21)) for one in fits))
