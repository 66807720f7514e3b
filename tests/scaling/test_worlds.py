import numpy as np
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law, law_names
from moe_search.scaling.worlds import MIDDLE, draw_world
from moe_search.spaces.errors import InvalidInputError

NAMES = tuple(name for name in law_names() if name != "step_law_sweeps")


@pytest.mark.parametrize("name", NAMES)
def test_a_world_looks_like_runs(name: str) -> None:
    world = draw_world(name, seed=1)
    ladder = world.ladder(80, seed=0)
    assert ladder.height == 80
    loss = ladder[world.column]
    assert loss.min() > 0.2  # type: ignore[operator]
    assert loss.max() < 15  # type: ignore[operator]
    assert world.ladder(80, seed=0).equals(ladder)
    assert not world.ladder(80, seed=1).equals(ladder)


def test_a_law_that_predicts_no_other_size_has_no_world() -> None:
    with pytest.raises(InvalidInputError, match="says nothing of sizes that it was not fitted to"):
        draw_world("step_law_sweeps", seed=0)


def test_noise_is_what_was_asked_for() -> None:
    quiet, noisy = (draw_world("chinchilla", seed=3, seed_sd=sd).ladder(400, seed=0) for sd in (0.0, 0.01))
    spread = np.log(noisy["loss"] / quiet["loss"])
    assert spread.std() == pytest.approx(0.01, rel=0.1)


def test_designs_keep_their_effect_at_all_scales() -> None:
    world = draw_world("chinchilla", seed=3, seed_sd=0.0, design_sd=0.02)
    law = get_law("chinchilla")
    shares = []
    for frame in (world.ladder(200, seed=0), world.beyond(200, seed=0, train_flops=1e22)):
        effect = np.log(frame["loss"].to_numpy() / law.predict(world.truth, law.variables(frame)))
        by_design = frame.with_columns(effect=effect).group_by("design_key").agg(low="effect", high="effect")
        shares.append({row[0]: np.mean(row[1]) for row in by_design.iter_rows()})
        assert all(np.ptp(row[1]) < 1e-12 for row in by_design.iter_rows())
    common = shares[0].keys() & shares[1].keys()
    assert len(common) > 10
    assert all(shares[0][key] == pytest.approx(shares[1][key]) for key in common)


def test_larger_runs_take_the_compute_that_was_asked_for_and_curvature_grows_with_distance() -> None:
    straight, curved = (draw_world("chinchilla", seed=5, seed_sd=0.0, curvature=c) for c in (0.0, 0.002))
    for flops in (10**MIDDLE, 10 ** (MIDDLE + 3)):
        one, other = (world.beyond(10, seed=0, train_flops=flops) for world in (straight, curved))
        np.testing.assert_allclose(6 * one["n_active_non_embedding"] * one["tokens"], flops)
        bent = np.abs(np.log(other["loss"] / one["loss"]))
        np.testing.assert_allclose(bent, 0.002 * (np.log10(flops) - MIDDLE) ** 2, atol=1e-12)


def test_the_true_law_fits_to_the_noise() -> None:
    world = draw_world("chinchilla", seed=2, seed_sd=0.005)
    found = fit(world.law, world.ladder(200, seed=0), resamples=0, starts=64)
    assert found.residual_sd == pytest.approx(0.005, rel=0.15)
