"""The objective: a weighted mean over domains of what a run lost on each of them.

Every run keeps its loss on every domain, so an objective can be changed after the fact: the same trials, weighed anew,
are a trial table like any other, and whatever reads one (surrogate, laws, recommendation) follows.
"""

import math
from collections.abc import Sequence
from difflib import get_close_matches

from moe_search.search.trial import Row
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.run import Run


def weigh(run: Run, weights: Mixture) -> Run:
    """Return ``run`` with the mean over domains by ``weights`` in place of the one it has."""
    if run.bpb is None or run.loss is None:
        return run
    return run.replace(
        bpb=sum(weight * run.domain_bpb[domain] for domain, weight in weights.items() if weight),
        loss=sum(weight * run.domain_loss[domain] for domain, weight in weights.items() if weight),
    )


def parse_weights(settings: Sequence[str]) -> Mixture | None:
    """Return ``DOMAIN=WEIGHT`` settings as weights that sum to one; None where there are no settings.

    Raises:
        InvalidInputError: one is not a domain with a weight, is there twice, or none is above zero.
    """
    weights: dict[str, float] = {}
    for setting in settings:
        domain, equals, text = (part.strip() for part in setting.rpartition("="))
        domain, text = (domain, text) if equals else (text, "")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not domain or not math.isfinite(weight) or weight < 0 or domain in weights:
            raise InvalidInputError(
                f"{domain} has two weights" if domain in weights else f"{setting!r} is not a domain with its weight",
                where="--weight",
                allowed="DOMAIN=WEIGHT once a domain, such as code=0.5; weights are scaled to sum to one",
            )
        weights[domain] = weight
    if weights and not any(weights.values()):
        raise InvalidInputError("no domain has a weight above zero", where="--weight")
    return Mixture.normalised(weights) if weights else None


def weigh_rows(rows: Sequence[Row], weights: Mixture) -> list[Row]:
    """Return a trial table as it would be if its runs had been weighed by ``weights``.

    Raises:
        InvalidInputError: a domain that the runs were not measured on.
    """
    measured = sorted({domain for row in rows for run in row.runs for domain in run.domain_bpb})
    for domain, weight in weights.items():
        if weight and domain not in measured:
            raise InvalidInputError(
                f"no run was measured on the domain {domain!r}",
                where="--weight",
                allowed=", ".join(measured),
                fix=next(iter(get_close_matches(domain, measured, n=1, cutoff=0.0)), ""),
            )
    return [row.replace(runs=tuple(weigh(run, weights) for run in row.runs)) for row in rows]
