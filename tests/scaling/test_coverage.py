import numpy as np
import pytest

from moe_search.scaling.coverage import BEYOND, INSIDE, JUDGED, Covered, covered
from moe_search.scaling.laws import get_law
from moe_search.scaling.worlds import draw_world

SIZES = {"starts": 12, "resamples": 60, "resamples_below": 30}


def mean(found: list[Covered], value: str, **case: object) -> float:
    chosen = [getattr(one, value) for one in found if all(getattr(one, name) == want for name, want in case.items())]
    assert chosen
    return float(np.mean(chosen))


def test_every_law_is_judged_inside_and_beyond_as_it_comes_and_widened() -> None:
    world = draw_world("chinchilla", seed=1, seed_sd=0.004)
    laws = [get_law("chinchilla"), get_law("compute")]
    found, refused = covered(world, laws, 40, seed=0, **SIZES)
    assert refused == []
    cases = {(one.law, one.true, one.where, one.widened) for one in found}
    assert len(found) == len(cases) == 8
    assert {(law, true) for law, true, _, _ in cases} == {("chinchilla", True), ("compute", False)}
    assert {where for _, _, where, _ in cases} == {INSIDE, BEYOND}
    for one in found:
        assert one.runs == 40
        assert 0 <= one.coverage_80 <= one.coverage_95 <= 1
        assert one.coverage_95 * JUDGED == pytest.approx(round(one.coverage_95 * JUDGED))
    again, _ = covered(world, laws, 40, seed=0, **SIZES)
    assert again == found


def test_a_wrong_law_covers_larger_runs_because_it_is_widened() -> None:
    found: list[Covered] = []
    for seed in range(2):
        world = draw_world("chinchilla", seed=seed, seed_sd=0.003, curvature=0.01)
        found += covered(world, [world.law], 60, seed=seed, **SIZES)[0]
    assert {one.true for one in found} == {False}
    before, after = (mean(found, "coverage_95", where=BEYOND, widened=widened) for widened in (False, True))
    assert before < 0.8
    assert after > 0.85
    widths = {widened: mean(found, "width_95", where=INSIDE, widened=widened) for widened in (False, True)}
    assert widths[True] < 1.1 * widths[False]


def test_a_law_with_too_few_runs_is_refused_by_name() -> None:
    world = draw_world("chinchilla", seed=0)
    found, refused = covered(world, [get_law("farseer"), get_law("compute")], 8, seed=0, **SIZES)
    assert refused == ["farseer"]
    assert {one.law for one in found} == {"compute"}
