"""The laws of a campaign on its runs: judged on the held-out largest scale, then fitted to everything."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from moe_search.scaling.calibration import widen
from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.validation import Comparison, compare
from moe_search.spaces.errors import InvalidInputError

RESAMPLES = 300
TRIAL = "trial"
"""Runs of one trial share a trunk, so whole trials are resampled."""


@dataclass(frozen=True)
class CampaignFits:
    """What the laws say about a campaign's runs."""

    comparison: Comparison | None
    """Fitted below the largest scale and judged on it; None where there are too few runs."""
    final: tuple[Fit, ...]
    """Fitted to all runs, the law to extrapolate with first."""
    refused: tuple[tuple[str, str], ...] = ()
    """(law, why) where a law could not be fitted to all runs."""

    @property
    def chosen(self) -> Fit | None:
        """The law to extrapolate with; None where none could be fitted."""
        return self.final[0] if self.final else None


def fit_campaign(
    frame: pl.DataFrame,
    laws: Sequence[str],
    *,
    seed: int,
    log: Callable[[str], None],
    cluster: str | None = TRIAL,
    holdout: str | None = None,
    objective: str | None = None,
    profiles: bool = False,
) -> CampaignFits:
    """Judge the laws on the held-out largest scale, then fit them to everything.

    Args:
        frame: the runs table.
        laws: names of laws.
        seed: of starts and resamples.
        log: told which laws were left out.
        cluster: the unit that is resampled.
        holdout: the runs that laws are judged on; None: the largest scale.
        objective: the column that is fitted; None: ``bpb``, else ``loss``.
        profiles: whether to profile the likelihood of the fits to everything, for a report.
    """
    final, refused = [], []
    for name in laws:
        try:
            one = fit(
                get_law(name),
                frame,
                objective=objective,
                cluster=cluster,
                resamples=RESAMPLES,
                profiles=profiles,
                seed=seed,
            )
            final.append(widen(one, frame, cluster=cluster, seed=seed))
        except InvalidInputError as error:
            log(f"law {name} is left out: {error}")
            refused.append((name, str(error)))
    try:
        comparison = compare(
            [one.law.name for one in final],
            frame,
            holdout=holdout,
            objective=objective,
            cluster=cluster,
            resamples=RESAMPLES,
            seed=seed,
        )
    except InvalidInputError as error:
        log(f"no held-out check: {error}")
        return CampaignFits(None, tuple(sorted(final, key=lambda one: one.objective)), tuple(refused))
    final.sort(key=lambda one: one.law.name != comparison.chosen)
    return CampaignFits(comparison, tuple(final), tuple(refused))


def fits_json(fits: CampaignFits) -> str:
    """Return ``fits.json``: each law fitted to all runs, and below the largest scale."""
    judged = {one.law.name: one.to_json() for one in (fits.comparison.fits if fits.comparison else ())}
    both = [{"all_runs": one.to_json(), "below_largest_scale": judged.get(one.law.name)} for one in fits.final]
    return json.dumps({"chosen": fits.chosen.law.name if fits.chosen else None, "laws": both}, indent=2)
