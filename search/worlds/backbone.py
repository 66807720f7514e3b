"""The law of a world: the joint law with coefficients drawn around the published ones, on text that runs out.

    log L = log joint(N, D', X, G, h'; theta)

with X the expansion that is left after router collapse, and, for domain d of U_d different tokens and weight w_d,
D'_d = U_d (1 + R_D (1 - exp(-r_d / R_D))) with r_d repetitions (Muennighoff et al. 2023), D' = sum_d D'_d and
h'_d = D'_d / D'. So a scarce domain that is worth much while it is fresh is worth little once a long run has read it
many times, and the best mixture moves with tokens. The best sparsity moves too: experts lower the parameter term and
raise the token term (omega > 0), and are limited by tokens for each active parameter (mu). Source:
:mod:`moe_search.scaling.laws.joint`.
"""

import math
from dataclasses import dataclass

import numpy as np

from moe_search.scaling.law import Law
from moe_search.scaling.laws import get_law
from moe_search.scaling.laws.joint import D0, N0
from moe_search.scaling.repetition import worth
from moe_search.search.problem import Problem
from moe_search.search.repetition import MORE_THAN_ENOUGH
from moe_search.search.worlds.dimensions import Array, Dimensions
from moe_search.spaces.free import FreeMixture

CENTRES = {"delta": -0.12, "omega": 0.02, "kappa": -0.09, "lambda": 0.015}
"""Where a truth is centred elsewhere than the law's prior: with omega and lambda of zero more experts, and finer ones,
would be better without end, and nothing would move with scale."""
SPREADS = {
    "E": 0.2,
    "A": 0.25,
    "B": 0.25,
    "alpha": 0.03,
    "delta": 0.04,
    "zeta": 0.004,
    "omega": 0.015,
    "eta": 0.003,
    "E_start": 0.3,
    "E_max": 0.5,
    "mu": 0.2,
    "kappa": 0.04,
    "gamma": 0.15,
    "lambda": 0.006,
    "R_D": 0.5,
    "b": 0.3,
    "g": 0.06,
}
"""Standard deviations of the drawn coefficients, in the law's internal units (a logarithm for positive ones)."""
PARTS = {"A": 0.8, "B": 1.0}
"""Bits per byte that are lost to finite parameters and to finite tokens in the middle of the ladder."""
EXPONENT_GAP = 0.03
"""Of beta - alpha: published fits agree that the two are nearly equal."""
DOMAIN_SPREAD = 0.1
"""Of ln K: by how much domains differ when a model is trained on one of them alone."""
SCARCE_SHARE = 0.2
"""Of the domains are scarce, at least one where the mixture is free."""
SCARCE_WORTH = 0.1
"""By which ln K of a scarce domain is lower: it is good text, which is why it is scarce."""
REPEATS = (0.5, 4.0)
"""How often an even mixture reads a scarce domain in a run at the target; log-uniform."""


@dataclass(frozen=True)
class Backbone:
    """One drawn law."""

    law: Law
    theta: Array
    """Internal ``(1, parameters)``."""
    unique: Array
    """Different tokens of each domain ``(domains,)``."""
    lasting: float
    """ln R_D."""

    def log_loss(self, x: Dimensions, expansion: Array) -> Array:
        """Return log bits per byte ``(n,)``.

        Args:
            x: the runs.
            expansion: what is left of each run's expansion after collapse ``(n,)``.
        """
        drawn = np.maximum(x.weights * x.tokens[:, None], 1.0)
        log_worth = worth(drawn, np.broadcast_to(self.unique, drawn.shape), np.full((1, 1), self.lasting))[0]
        fresh = np.exp(log_worth) * (x.weights > 0)
        tokens = fresh.sum(axis=1)
        ones = np.ones((len(tokens), 1))
        variables = {
            "N": x.n_active,
            "D": tokens,
            "X": expansion,
            "G": x.granularity,
            "R": ones,
            "S": 64.0 * ones,
            "w": fresh / tokens[:, None] * x.weights.shape[1],
        }
        return np.asarray(self.law.log_loss(self.theta, variables)[0])


def draw_backbone(problem: Problem, rng: np.random.Generator) -> Backbone:
    """Draw a law and the amounts of text for the domains of ``problem``."""
    domains = problem.space.domains
    law = get_law("joint").for_domains(domains)
    theta = np.array([parameter.internal(parameter.center) for parameter in law.parameters], dtype=np.float64)
    for name, centre in CENTRES.items():
        theta[law.index(name)] = centre
    for name, spread in SPREADS.items():
        theta[law.index(name)] += spread * float(np.clip(rng.standard_normal(), -2, 2))
    theta[law.index("beta")] = theta[law.index("alpha")] + EXPONENT_GAP * rng.standard_normal()
    middle = problem.ladder.scales()[len(problem.ladder.scales()) // 2]
    reference = {"A": ("alpha", middle.n_active / N0), "B": ("beta", middle.tokens / D0)}
    for name, (exponent, ratio) in reference.items():
        centre = law.parameters[law.index(name)].center
        theta[law.index(name)] += math.log(PARTS[name] / centre) + theta[law.index(exponent)] * math.log(ratio)
    for name in ("omega", "lambda"):
        theta[law.index(name)] = abs(theta[law.index(name)])
    unique = np.full(max(len(domains), 1), MORE_THAN_ENOUGH)
    if isinstance(problem.space.mixture, FreeMixture) and len(domains) > 1:
        log_k = DOMAIN_SPREAD * rng.standard_normal(len(domains))
        scarce = rng.choice(len(domains), max(round(SCARCE_SHARE * len(domains)), 1), replace=False)
        log_k[scarce] -= SCARCE_WORTH
        repeats = np.exp(rng.uniform(math.log(REPEATS[0]), math.log(REPEATS[1]), len(scarce)))
        unique[scarce] = problem.target_scale.tokens / len(domains) / repeats
        for domain, value in zip(domains[1:], log_k[1:] - log_k[0], strict=True):
            theta[law.index(f"K/{domain}")] = value
    return Backbone(law, theta[None, :], unique, float(theta[law.index("R_D")]))
