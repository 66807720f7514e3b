"""The irreducible loss free, pinned and integrated over: what each claims, and how often it is right."""

import json

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.asymptote import Treatments, forecasts_by_asymptote
from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.pinned import Pinned
from moe_search.spaces.errors import InvalidInputError

LAW = get_law("compute")
TRUTH = {"E": 1.7, "K": 1000.0, "s": 0.155}
FAR = pl.DataFrame({"train_flops": [1e24]})


def runs(count: int = 24, noise: float = 0.004, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"train_flops": np.geomspace(1e18, 1e21, count)})
    loss = LAW.predict(TRUTH, LAW.variables(frame)) * np.exp(noise * rng.normal(size=count))
    return frame.with_columns(loss=pl.Series(loss))


def interval(fitted: Fit, frame: pl.DataFrame = FAR) -> tuple[float, float]:
    low, high = np.exp(np.quantile(fitted.log_means(frame)[1][0], [0.025, 0.975]))
    return float(low), float(high)


@pytest.fixture(scope="module")
def treatments() -> Treatments:
    return forecasts_by_asymptote(LAW, runs(), {"far": FAR}, pinned=[1.6, 1.7], resamples=400, starts=16)


def test_every_forecast_says_what_it_assumes(treatments: Treatments) -> None:
    assert [one.law for one in treatments.treatments] == [
        "compute",
        "compute:E=1.6",
        "compute:E=1.7",
        "compute:E=integrated",
    ]
    assert [one.asymptote.kind for one in treatments.treatments] == ["free", "pinned", "pinned", "integrated"]
    sentences = [one.asymptote.sentence() for one in treatments.treatments]
    assert sentences[1] == "the irreducible loss is assumed: E = 1.6"
    assert sentences[3].startswith("the irreducible loss is integrated over: E = 1.")
    assert len(set(sentences)) == 4
    content = json.loads(json.dumps(treatments.to_json(), allow_nan=False))
    assert content["treatments"][3]["asymptote"]["sentence"] == sentences[3]


def test_integrating_is_wider_than_pinning_and_both_hold_the_truth(treatments: Treatments) -> None:
    truth = float(LAW.predict(TRUTH, LAW.variables(FAR))[0])
    free, low, right, integrated = (one.forecasts[0] for one in treatments.treatments)
    widths = [one.high_95 - one.low_95 for one in (free, right, integrated)]
    assert widths[2] > 3 * widths[1]
    assert 0.6 < widths[2] / widths[0] < 1.8
    for one in (free, right, integrated):
        assert one.low_95 < one.low_80 < one.high_80 < one.high_95
        assert one.low_95 < truth < one.high_95
    assert low.high_95 < right.low_95  # two assumptions, two forecasts that exclude each other
    assert treatments.treatments[0].objective <= min(one.objective for one in treatments.treatments) * (1 + 1e-9)


def coverage(law: str, seeds: int) -> float:
    truth = float(LAW.predict(TRUTH, LAW.variables(FAR))[0])
    ends = [interval(fit(get_law(law), runs(12, seed=seed), resamples=200, starts=8)) for seed in range(seeds)]
    return float(np.mean([low <= truth <= high for low, high in ends]))


@pytest.mark.slow
def test_integrated_intervals_cover_and_those_of_a_pinned_best_fit_do_not() -> None:
    assert coverage("compute:E=integrated", 40) >= 0.88
    hits = []
    truth = float(LAW.predict(TRUTH, LAW.variables(FAR))[0])
    for seed in range(20):
        frame = runs(12, seed=seed)
        best = fit(LAW, frame, resamples=0, starts=8).parameters["E"].value
        assert best is not None
        low, high = interval(fit(Pinned(LAW, {"E": best}), frame, resamples=100, starts=8))
        hits.append(low <= truth <= high)
    assert np.mean(hits) < 0.6


def test_laws_without_a_free_asymptote_and_no_resamples_are_refused() -> None:
    for name in ("compute:E=1.7", "kaplan", "compute:E=integrated"):
        with pytest.raises(InvalidInputError, match="has no irreducible loss that is fitted"):
            forecasts_by_asymptote(get_law(name), runs(), {"far": FAR})
    with pytest.raises(InvalidInputError, match="--resamples: no resamples give no interval"):
        forecasts_by_asymptote(LAW, runs(), {"far": FAR}, resamples=0)


def test_without_values_the_best_fit_is_pinned_as_if_it_were_known() -> None:
    found = forecasts_by_asymptote(LAW, runs(), {"far": FAR}, resamples=50, starts=8)
    free, pinned, _ = found.treatments
    assert pinned.asymptote.estimate.value == free.asymptote.estimate.value
    assert pinned.forecasts[0].loss == pytest.approx(free.forecasts[0].loss, rel=1e-6)


def test_a_value_that_the_runs_do_not_identify_is_not_pinned() -> None:
    rng = np.random.default_rng(0)
    size = np.geomspace(1e6, 1e8, 20)
    loss = 0.6 + 20 / size**0.3 + 0.2
    frame = pl.DataFrame({"n_active": size, "tokens": 1e9, "bpb": loss * np.exp(0.002 * rng.normal(size=20))})
    far = pl.DataFrame({"n_active": [1e9], "tokens": [1e9]})
    found = forecasts_by_asymptote(get_law("chinchilla"), frame, {"far": far}, resamples=20, starts=8)
    assert [one.asymptote.kind for one in found.treatments] == ["free", "integrated"]
    assert found.treatments[0].asymptote.estimate.value is None
