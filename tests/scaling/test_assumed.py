import numpy as np
import polars as pl
import pytest

from moe_search.scaling.assumed import asymptote_of, floor_of
from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law, law_names
from moe_search.scaling.worlds import draw_world


@pytest.mark.parametrize("name", law_names())
def test_what_a_law_calls_irreducible_is_found_and_no_other(name: str) -> None:
    floor = floor_of(get_law(name).for_domains(("code", "web")))
    named = [p.name for p in get_law(name).for_domains(("code", "web")).parameters if "irreducible" in p.meaning]
    assert (floor.name in named or floor.name in {"E", "c", "e"}) if floor else not named


def test_free_pinned_and_absent_are_told_apart() -> None:
    frame = draw_world("chinchilla", seed=1).ladder(40, seed=0)
    free, pinned, none, other = (
        asymptote_of(fit(get_law(name), frame, resamples=20, starts=8))
        for name in ("chinchilla", "chinchilla:E=1.69", "kaplan", "chinchilla:alpha=0.34")
    )
    assert (free.kind, free.parameter, other.kind) == ("free", "E", "free")
    assert free.estimate.low is not None
    assert free.sentence().startswith("the irreducible loss is fitted: E = ")
    assert (pinned.kind, pinned.estimate.value, pinned.estimate.low) == ("pinned", 1.69, None)
    assert pinned.sentence() == "the irreducible loss is assumed: E = 1.69"
    assert (none.kind, none.sentence()) == ("none", "the law has no irreducible loss")
    assert free.to_json()["sentence"] == free.sentence()


def test_what_is_not_identified_is_withheld() -> None:
    frame = draw_world("chinchilla", seed=1).ladder(40, seed=0)
    constant = frame.with_columns(train_flops=pl.Series(np.full(40, 1e18)))
    found = asymptote_of(fit(get_law("compute"), constant, resamples=20, starts=8))
    assert found.estimate.value is None
    assert found.sentence() == "the irreducible loss is fitted, and these runs do not identify it: E"
