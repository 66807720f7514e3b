"""BoTorch's one-shot multi-fidelity knowledge gradient (Wu et al. 2019), per cost, as its tutorial has it.

A SingleTaskMultiFidelityGP with a linear truncated kernel over the fidelity, which lies at equal steps in (0, 1]; an
affine model of cost, fitted to the ladder; fantasies optimised together with the candidate. The candidate is snapped to
the nearest design that is left at its fidelity. It takes seconds a suggestion, and tens of seconds with many runs:
settings are small here, and at most ``MOST`` runs condition the model, the latest and all at the target.
"""

import warnings
from typing import Any

import numpy as np
import torch
from botorch.acquisition.analytic import PosteriorMean
from botorch.acquisition.cost_aware import InverseCostWeightedUtility
from botorch.acquisition.fixed_feature import FixedFeatureAcquisitionFunction
from botorch.acquisition.knowledge_gradient import qMultiFidelityKnowledgeGradient
from botorch.acquisition.utils import project_to_target_fidelity
from botorch.exceptions.warnings import BotorchWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models.cost import AffineFidelityCostModel
from botorch.models.gp_regression_fidelity import SingleTaskMultiFidelityGP
from botorch.models.transforms import Standardize
from botorch.optim.optimize import optimize_acqf, optimize_acqf_mixed
from botorch.sampling.normal import SobolQMCNormalSampler
from gpytorch.mlls import ExactMarginalLogLikelihood
from linear_operator.utils.warnings import NumericalWarning

from moe_search.search.replay.nearest import nearest
from moe_search.search.replay.policy import Run, View
from moe_search.search.suggest import one_thread

FIRST = 5
"""Random designs before the model, one in two at the target."""
FANTASIES, RESTARTS, SAMPLES, ITERATIONS = 8, 2, 32, 30
MOST = 100
LEAST_COST = 1e-3
"""The affine model is kept above it."""


class OneShotKnowledgeGradient:
    """One run at a time."""

    def propose(self, view: View) -> list[Run]:
        """Return one run."""
        if not len(view.open_designs(view.target)):
            return []
        if len(view.runs) < FIRST or view.target == 0:
            fidelity = view.target if len(view.runs) % 2 == 0 else 0
            return [(fidelity, int(view.rng.choice(view.open_designs(fidelity))))]
        torch.manual_seed(int(view.rng.integers(2**31)))
        with one_thread(), warnings.catch_warnings():
            for noise in (BotorchWarning, RuntimeWarning, NumericalWarning):
                warnings.simplefilter("ignore", noise)
            fidelity, point = _best(view)
        left = view.open_designs(fidelity)
        fidelity, left = (fidelity, left) if len(left) else (view.target, view.open_designs(view.target))
        return [(fidelity, nearest(view, point, left))]


def _best(view: View) -> tuple[int, np.ndarray]:
    """The fidelity and the features (features,) that the acquisition likes best."""
    d, m = view.table.features.shape[1], len(view.table.fidelities)
    levels = (np.arange(m) + 1) / m
    keep = np.flatnonzero((view.fidelity == view.target) | (np.arange(len(view.runs)) >= len(view.runs) - MOST))
    x = np.column_stack([view.table.features[view.design], levels[view.fidelity]])[keep]
    y = torch.from_numpy(-view.observed[keep])[:, None]
    model = SingleTaskMultiFidelityGP(torch.from_numpy(x), y, data_fidelities=[d], outcome_transform=Standardize(m=1))
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    bounds = torch.stack([torch.zeros(d + 1), torch.ones(d + 1)]).double()
    current = FixedFeatureAcquisitionFunction(PosteriorMean(model), d=d + 1, columns=[d], values=[1.0])
    settings: dict[str, Any] = {
        "num_restarts": RESTARTS,
        "raw_samples": SAMPLES,
        "options": {"maxiter": ITERATIONS},
    }
    _, best = optimize_acqf(current, bounds[:, :-1], q=1, **settings)
    median = np.array([np.nanmedian(view.table.cost[s]) for s in range(m)])
    slope, fixed = np.polyfit(levels, median, 1)
    cost = AffineFidelityCostModel(
        fidelity_weights={d: float(max(slope, LEAST_COST))}, fixed_cost=float(max(fixed, LEAST_COST))
    )

    def at_target(points: torch.Tensor) -> torch.Tensor:
        return project_to_target_fidelity(points, target_fidelities={d: 1.0}, d=d + 1)

    acquisition = qMultiFidelityKnowledgeGradient(
        model,
        num_fantasies=FANTASIES,
        sampler=SobolQMCNormalSampler(torch.Size([FANTASIES]), seed=int(view.rng.integers(2**31))),
        current_value=best,
        cost_aware_utility=InverseCostWeightedUtility(cost_model=cost),
        project=at_target,
    )
    found, _ = optimize_acqf_mixed(
        acquisition, bounds, q=1, fixed_features_list=[{d: float(level)} for level in levels], **settings
    )
    fidelity = int(np.abs(levels - float(found[0, d])).argmin())
    return fidelity, found[0, :d].numpy()


POLICY = OneShotKnowledgeGradient
