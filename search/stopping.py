"""The stop rule: end when a better choice would not be told from the present one, or when no run can change it.

With f ~ the joint posterior of log loss at the target over all candidates, c the candidate of least mean,

    regret = E[f_c - min_j f_j]                             expected regret; also the value of perfect information
    gain   = max_x KG(x repeated as often as the rest of the budget pays for)

The first bounds what any number of runs could gain (Raiffa and Schlaifer 1961). The second is the knowledge gradient
KG(*) of a run repeated n times, whose noise variance is divided by n (Frazier and Powell 2010, "Paradoxes in learning
and the marginal value of information"): a single noisy run may be worth nothing where ten are worth a lot, so the plain
knowledge gradient would end a search too early. Both are functions of finished rows and fixed draws.
"""

import math

import numpy as np
from torch import Tensor

from moe_search.search.acquisition import knowledge_gradient
from moe_search.search.standing import Standing
from moe_search.search.surrogate import Surrogate

DRAWS = 512
MOST_REPEATED = 256
"""Runs whose repetition is evaluated: those that could move the means at the target furthest apart, which bounds what
they are worth."""


def expected_regret(mean: Tensor, covariance: Tensor) -> float:
    """Return E[f_c - min_j f_j] for f ~ N(mean, covariance), c being the least mean.

    Args:
        mean: of the candidates ``(M,)``, log loss.
        covariance: ``(M, M)``.
    """
    values, vectors = np.linalg.eigh(covariance.numpy())  # a root that exists also where candidates coincide
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    half = np.random.default_rng(0).standard_normal((DRAWS // 2, len(mean)))
    drawn = mean.numpy() + np.concatenate([half, -half]) @ root.T  # antithetic: means are exact
    return float(np.mean(drawn[:, int(mean.argmin())] - drawn.min(axis=1)))


def standing(
    surrogate: Surrogate, target: Tensor, believed: Tensor, *, covariance: Tensor, variance: Tensor, repeats: Tensor
) -> Standing:
    """Return how the decision stands.

    Args:
        surrogate: the posterior of finished runs.
        target: the candidates at the target scale, encoded ``(M, ...)``.
        believed: their means when pending runs are done ``(M,)``.
        covariance: then, of every run that the budget still pays for with the candidates ``(O, M)``.
        variance: then, of every such run ``(O,)``, without noise.
        repeats: as often as the rest of the budget pays for each ``(O,)``, at least 1.
    """
    mean = surrogate.mean_at(target)
    noise = surrogate.noise_variance
    gain = 0.0
    if len(repeats):
        shown = variance + noise / repeats
        reach = (covariance.max(dim=1).values - covariance.min(dim=1).values) / shown.sqrt()
        most = reach.argsort(descending=True, stable=True)[:MOST_REPEATED]
        gain = float(knowledge_gradient(believed, covariance[most], shown[most]).max())
    expected = math.exp(float(mean.min()))
    return Standing(
        regret=expected * expected_regret(mean, surrogate.covariance_at(target, target)),
        noise=expected * math.sqrt(noise),
        gain=expected * gain,
    )
