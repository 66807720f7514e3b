"""Groups of runs with a law each: alone they are fits like any other, together their draws are joint."""

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.groups import fit_groups
from moe_search.scaling.laws import get_law
from moe_search.spaces.errors import InvalidInputError

LAW = get_law("compute")
KINDS = ("a", "b", "c")
CONDITIONS = tuple(f"kind = '{kind}'" for kind in KINDS)


def runs(*, noise: float = 0.003, shared: float = 0.0) -> pl.DataFrame:
    """Three groups of 12 runs, each half as good at compute as the one before; noise of a pair is in all of them."""
    rng = np.random.default_rng(0)
    flops = np.geomspace(1e18, 1e21, 12)
    common = shared * rng.normal(size=12)
    parts = []
    for place, kind in enumerate(KINDS):
        frame = pl.DataFrame({"train_flops": flops, "pair": np.arange(12), "kind": [kind] * 12})
        truth = {"E": 1.7, "K": 1000.0 * 2.0 ** (0.155 * place), "s": 0.155}
        loss = LAW.predict(truth, LAW.variables(frame)) * np.exp(noise * rng.normal(size=12) + common)
        parts.append(frame.with_columns(loss=pl.Series(loss)))
    return pl.concat(parts)


def test_each_group_has_the_fit_that_its_runs_have_alone() -> None:
    frame = runs()
    for name, group in zip(KINDS, fit_groups(LAW, frame, CONDITIONS, resamples=200, starts=16), strict=True):
        alone = fit(LAW, frame.filter(pl.col("kind") == name), resamples=200, starts=16)
        np.testing.assert_allclose(group.fitted.theta, alone.theta, rtol=1e-6)
        assert group.name == f"kind = '{name}'"
        assert group.runs.height == 12
        assert group.fitted.draws.shape == (200, 3)
        ours, theirs = (np.exp(one.log_means(frame.tail(1))[1][0]).std() for one in (group.fitted, alone))
        assert 0.5 < ours / theirs < 2.0


def test_what_groups_share_moves_their_draws_together() -> None:
    frame = runs(noise=0.0005, shared=0.01)
    at = pl.DataFrame({"train_flops": [3e19]})
    for cluster, low, high in (("pair", 0.9, 1.0), (None, -0.3, 0.3)):
        a, b, _ = fit_groups(LAW, frame, CONDITIONS, cluster=cluster, resamples=300, starts=16)
        correlation = np.corrcoef(*(group.fitted.log_means(at)[1][0] for group in (a, b)))[0, 1]
        assert low < correlation < high


@pytest.mark.parametrize("resamples", [0, 40])
def test_a_shared_parameter_has_one_value_in_all_groups(resamples: int) -> None:
    law = get_law("compute:E=integrated")
    groups = fit_groups(law, runs(), CONDITIONS, shared=True, resamples=resamples, starts=16)
    first = groups[0].fitted
    for group in groups:
        np.testing.assert_allclose(group.fitted.draws[:, 0], first.draws[:, 0])
        assert group.fitted.theta[0] == pytest.approx(first.theta[0])
        assert group.fitted.parameters["E"] == first.parameters["E"]
    assert first.parameters["E"].value == pytest.approx(1.7, abs=0.15)
    assert first.draws.shape == (max(resamples, 1), 3)


def test_groups_without_runs_and_runs_of_two_groups_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="no run meets"):
        fit_groups(LAW, runs(), ("kind = 'a'", "kind = 'd'"))
    with pytest.raises(InvalidInputError, match="12 runs are in several groups, kind = 'a' and kind != 'b'"):
        fit_groups(LAW, runs(), ("kind = 'a'", "kind != 'b'"))
    with pytest.raises(InvalidInputError, match="integrates over no parameter that groups could share"):
        fit_groups(LAW, runs(), CONDITIONS, shared=True)
