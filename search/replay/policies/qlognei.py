"""BoTorch's noisy expected improvement at the target: the best of the optimisers that know one fidelity.

qLogNoisyExpectedImprovement (Ament et al. 2023) of a SingleTaskGP with its defaults, over all designs that are left.
"""

import warnings

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.exceptions.warnings import BotorchWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms import Standardize
from botorch.sampling.normal import SobolQMCNormalSampler
from gpytorch.mlls import ExactMarginalLogLikelihood

from moe_search.search.replay.policy import Run, View
from moe_search.search.suggest import one_thread

FIRST = 5
"""Random designs before the model."""
SAMPLES = 128


class NoisyExpectedImprovement:
    """One design at a time."""

    def propose(self, view: View) -> list[Run]:
        """Return one run at the target."""
        left = view.open_designs(view.target)
        if not len(left):
            return []
        if len(view.runs) < FIRST:
            return [(view.target, int(view.rng.choice(left)))]
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            observed = torch.from_numpy(view.table.features[view.design])
            value = torch.from_numpy(-view.observed)[:, None]
            model = SingleTaskGP(observed, value, outcome_transform=Standardize(m=1))
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            sampler = SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=int(view.rng.integers(2**31)))
            acquisition = qLogNoisyExpectedImprovement(model, observed, sampler=sampler, prune_baseline=True)
            with torch.no_grad():
                scores = acquisition(torch.from_numpy(view.table.features[left])[:, None, :]).numpy()
        return [(view.target, int(left[int(np.argmax(scores))]))]


POLICY = NoisyExpectedImprovement
