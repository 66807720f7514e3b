"""The surrogate: a Gaussian process over log bits per byte whose mean is a scaling law.

    log bpb(design, scale) = law(scale; theta) + g(design, scale) + trunk + noise

- ``law``: :mod:`moe_search.search.law_mean`; its parameters' uncertainty is a kernel, so that an extrapolation
follows the
  law and widens as the law is unsure, where a stationary kernel would fall back to a constant.
- ``g``: product of a Matern-5/2 kernel over the design's features and a kernel over scales,

      k_design(f, f') (shared^2 + drift^2 c c' + local^2 exp(-|s - s'|^2 / 2)),

  with log compute ``c`` zero at the ladder's top: an effect that all scales share, one that grows or turns with scale
  (rankings that change), and what is peculiar to a scale.
- ``trunk``: noise that runs of one trunk have in common (initialisation, data order); ``noise``: the rest. Both start
from
  seed repeats where there are any. It is simple: a trunk's runs are equally correlated, whatever their horizons.

Hyper-parameters are few, with priors in units of the scatter about the law, and at their posterior maximum (MAP). The
class is a BoTorch model; ``predict`` and what the acquisition needs take the exact joint posterior from one Cholesky
factor, because a decision between designs is about their differences.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import gpytorch
import numpy as np
import torch
from botorch.models.gpytorch import GPyTorchModel
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.models import ExactGP
from gpytorch.priors import LogNormalPrior, NormalPrior
from torch import Tensor

from moe_search.search.law_mean import LawMean
from moe_search.search.observations import Observations, log_scales, observe, repeat_variance
from moe_search.search.problem import Problem
from moe_search.search.trial import Row
from moe_search.spaces.design import Design, Scale

MAX_FIT_ROWS = 200
"""Observations that hyper-parameters are fitted on (all condition the posterior): each trial's longest run first."""
MAX_FIT_STEPS = 40
TYPICAL_NOISE = 4e-3
"""Standard deviation of log bpb between seeds before any repeat has been seen: 0.4 %."""
LEAST_NOISE = 2e-4
SQRT5 = math.sqrt(5.0)


class DesignScaleKernel(Kernel):  # type: ignore[misc]
    """Covariance of everything but the independent noise; columns: features, log N, log D, trunk (-1: none).

    Args:
        law: fitted mean.
        n_features: columns of a design's features, each in [0, 1].
        unit: standard deviation of log loss that amplitudes are measured in.
        top: log N, log D of the ladder's top.
        span: spread of log N and of log D over the ladder.
        noise: typical standard deviation of log loss between seeds.
        noise_spread: standard deviation of its logarithm.
    """

    def __init__(
        self,
        law: LawMean,
        n_features: int,
        *,
        unit: float,
        top: tuple[float, float],
        span: tuple[float, float],
        noise: float,
        noise_spread: float,
    ) -> None:
        super().__init__()
        self.law, self.n_features, self.unit = law, n_features, unit
        self.register_buffer("top", torch.tensor(top, dtype=torch.float64))
        self.register_buffer("span", torch.tensor(span, dtype=torch.float64))
        # Distances grow as sqrt(d); lengths that grow alike keep the prior's complexity (Hvarfner et al. 2024).
        length = math.log(0.8 * math.sqrt(max(n_features, 1)))
        self._log_parameter("lengths", torch.full((n_features,), length), spread=0.8)
        self._log_parameter("shared", torch.tensor(0.0), spread=0.6)
        self._log_parameter("drift", torch.tensor(math.log(0.3)), spread=0.6)
        self._log_parameter("local", torch.tensor(math.log(0.25)), spread=0.6)
        self._log_parameter("trunk", torch.tensor(math.log(noise / math.sqrt(2))), spread=noise_spread)

    def _log_parameter(self, name: str, log_value: Tensor, *, spread: float) -> None:
        """Register a positive parameter by its logarithm, with a normal prior on it."""
        value = log_value.to(torch.float64)
        self.register_parameter(f"log_{name}", torch.nn.Parameter(value.clone()))
        if value.numel():
            prior = NormalPrior(value, torch.full_like(value, spread))
            self.register_prior(f"{name}_prior", prior, lambda module: getattr(module, f"log_{name}"))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:  # noqa: FBT001, FBT002
        """Return the covariance ``(..., n1, n2)``, or its diagonal ``(..., n)``."""
        d = self.n_features
        amplitude = (2 * torch.stack([self.log_shared, self.log_drift, self.log_local])).exp() * self.unit**2
        s1, s2 = ((x[..., d : d + 2] - self.top) / self.span for x in (x1, x2))
        c1, c2 = s1.mean(-1), s2.mean(-1)
        same = x1[..., d + 2]
        roots1, roots2 = self._law_root(x1), self._law_root(x2)
        if diag:
            scale_part = amplitude[0] + amplitude[1] * c1 * c2 + amplitude[2]
            trunk = (2 * self.log_trunk).exp() * (same >= 0)
            diagonal: Tensor = scale_part + (roots1 * roots2).sum(-1) + trunk
            return diagonal
        f1, f2 = (x[..., :d] / self.log_lengths.exp() for x in (x1, x2))
        scale_part = (
            amplitude[0]
            + amplitude[1] * c1[..., :, None] * c2[..., None, :]
            + amplitude[2] * (-0.5 * _squared_distance(s1, s2)).exp()
        )
        distance = SQRT5 * (_squared_distance(f1, f2) + 1e-20).sqrt()
        design_part = (1 + distance + distance**2 / 3) * (-distance).exp()
        shared = (same[..., :, None] == x2[..., None, :, d + 2]) & (same[..., :, None] >= 0)
        trunk = (2 * self.log_trunk).exp() * shared
        covariance: Tensor = design_part * scale_part + roots1 @ roots2.mT + trunk
        return covariance

    def _law_root(self, x: Tensor) -> Tensor:
        """Return J S^1/2 ``(..., n, 5)``; without gradients by x, as scales are discrete."""
        return _through_law(self.law, x[..., self.n_features : self.n_features + 2])[1]


class LawModule(gpytorch.means.Mean):  # type: ignore[misc]
    """The law as a GPyTorch mean."""

    def __init__(self, law: LawMean, n_features: int) -> None:
        super().__init__()
        self.law, self.n_features = law, n_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the prior mean ``(..., n)`` of log loss."""
        return _through_law(self.law, x[..., self.n_features : self.n_features + 2])[0]


class Surrogate(ExactGP, GPyTorchModel):  # type: ignore[misc]
    """The joint posterior over designs and scales, in log bits per byte without observation noise.

    Build it with :meth:`fit`. ``posterior(X)`` is BoTorch's, on inputs from :meth:`encode`.
    """

    train_inputs: tuple[Tensor, ...]
    train_targets: Tensor
    likelihood: GaussianLikelihood
    covar_module: DesignScaleKernel
    mean_module: LawModule
    _num_outputs = 1

    def __init__(self, problem: Problem, observations: Observations) -> None:
        self.problem = problem
        self.law = observations.law
        n_features = len(problem.space.feature_names)
        inputs = _encode(problem, observations.designs, observations.scales, observations.trunks)
        targets = torch.from_numpy(observations.log_loss)
        variance, freedom = repeat_variance(observations)
        # The prior counts as two repeats: TYPICAL_NOISE is a guess that a few measured ones overrule.
        noise = math.sqrt((2 * TYPICAL_NOISE**2 + freedom * variance) / (2 + freedom))
        noise = max(noise, LEAST_NOISE)
        spread = 1 / math.sqrt(2 + freedom)  # of the log of a standard deviation, about 1 / sqrt(2 freedom)
        likelihood = GaussianLikelihood(
            noise_prior=LogNormalPrior(2 * math.log(noise) - math.log(2), 2 * spread),
            noise_constraint=GreaterThan(LEAST_NOISE**2 / 2, transform=torch.exp, inv_transform=torch.log),
        ).double()
        likelihood.noise = torch.tensor(max(noise, 1.5 * LEAST_NOISE) ** 2 / 2)
        super().__init__(inputs, targets, likelihood)
        sizes, tokens = log_scales(problem.ladder.scales())
        self.mean_module = LawModule(self.law, n_features)
        self.covar_module = DesignScaleKernel(
            self.law,
            n_features,
            unit=self.law.scatter,
            top=(math.log(problem.ladder.top.n_active), math.log(problem.ladder.top.tokens)),
            span=(max(float(np.ptp(sizes)), 1.0), max(float(np.ptp(tokens)), 1.0)),
            noise=noise,
            noise_spread=spread,
        )
        self._factor: tuple[Tensor, Tensor] | None = None

    @classmethod
    def fit(cls, problem: Problem, rows: Sequence[Row]) -> "Surrogate | None":
        """Fit to all runs of ``rows``; None if none has a loss.

        Args:
            problem: names the features and the ladder.
            rows: trials with results; others are passed over.
        """
        observations = observe(problem, rows)
        if observations is None:
            return None
        surrogate = cls(problem, observations)
        surrogate._fit_hyperparameters(observations)
        return surrogate

    def _fit_hyperparameters(self, observations: Observations) -> None:
        inputs, targets = self.train_inputs[0], self.train_targets
        order = np.concatenate(
            [np.flatnonzero(observations.is_last), np.flatnonzero(np.logical_not(observations.is_last))]
        )
        chosen = np.sort(order[:MAX_FIT_ROWS])
        ExactGP.set_train_data(self, inputs[chosen], targets[chosen], strict=False)
        self.train()
        with exact_algebra():
            fit_gpytorch_mll_scipy(
                ExactMarginalLogLikelihood(self.likelihood, self), options={"maxiter": MAX_FIT_STEPS}
            )
        ExactGP.set_train_data(self, inputs, targets, strict=False)
        self.eval()

    def forward(self, x: Tensor) -> MultivariateNormal:
        """Return the prior at ``x`` (encoded)."""
        return MultivariateNormal(self.mean_module(x), self.covar_module(x))

    @property
    def noise_variance(self) -> float:
        """Variance of log bpb between seeds: the trunk's share and the rest."""
        trunk = math.exp(2 * self.covar_module.log_trunk.item())
        return trunk + float(self.likelihood.noise.item())

    def encode(self, designs: Sequence[Design], scales: Sequence[Scale]) -> Tensor:
        """Return inputs ``(n, n_features + 3)``: features, log N, log D, no trunk. Designs should be realised ones."""
        return _encode(self.problem, designs, scales, np.full(len(designs), -1.0))

    def encode_realised(self, designs: Sequence[Design], scales: Sequence[Scale]) -> Tensor:
        """Like :meth:`encode`, with the features of what each design amounts to at its scale; scales as given."""
        realised = [self.problem.realised(design, scale)[0] for design, scale in zip(designs, scales, strict=True)]
        return self.encode(realised, scales)

    def believing(self, inputs: Tensor, trunks: Sequence[int]) -> "Surrogate":
        """Return the surrogate as if ``inputs`` had been observed at their posterior means ("kriging believer").

        Means stay as they are; variances shrink to what they will be when those runs are done, whatever they show.

        Args:
            inputs: encoded.
            trunks: trial number of each.
        """
        inputs = inputs.clone()
        inputs[:, -1] = torch.tensor(trunks, dtype=torch.float64)
        mean = self.mean_at(inputs)
        twin = copy.copy(self)  # shares the hyper-parameters
        twin._factor = None
        every_input = torch.cat([self.train_inputs[0], inputs])
        ExactGP.set_train_data(twin, every_input, torch.cat([self.train_targets, mean]), strict=False)
        return twin

    def _conditioned(self) -> tuple[Tensor, Tensor]:
        """Return the Cholesky factor of the data's covariance ``(n, n)`` and alpha = K^-1 (y - m) ``(n,)``."""
        if self._factor is None:
            x = self.train_inputs[0]
            with torch.no_grad():
                covariance = self.covar_module.forward(x, x)
                covariance = covariance + self.likelihood.noise * torch.eye(len(x), dtype=torch.float64)
                factor = torch.linalg.cholesky(covariance)
                centred = self.train_targets - self.mean_module(x)
                self._factor = factor, torch.cholesky_solve(centred[:, None], factor)[:, 0]
        return self._factor

    def mean_at(self, inputs: Tensor) -> Tensor:
        """Return the posterior mean of log bpb ``(n,)`` at encoded inputs."""
        with torch.no_grad():
            cross = self.covar_module.forward(inputs, self.train_inputs[0])
            mean: Tensor = self.mean_module(inputs) + cross @ self._conditioned()[1]
        return mean

    def covariance_at(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the posterior covariance of log bpb ``(n_left, n_right)``."""
        factor, _ = self._conditioned()
        x = self.train_inputs[0]
        with torch.no_grad():
            to_left = torch.linalg.solve_triangular(factor, self.covar_module.forward(x, left), upper=False)
            same = left is right
            to_right = (
                to_left
                if same
                else torch.linalg.solve_triangular(factor, self.covar_module.forward(x, right), upper=False)
            )
            covariance: Tensor = self.covar_module.forward(left, right) - to_left.mT @ to_right
        return covariance

    def variance_at(self, inputs: Tensor) -> Tensor:
        """Return the posterior variance of log bpb ``(n,)``."""
        factor, _ = self._conditioned()
        with torch.no_grad():
            cross = self.covar_module.forward(self.train_inputs[0], inputs)
            explained = torch.linalg.solve_triangular(factor, cross, upper=False).square().sum(0)
            prior = self.covar_module.forward(inputs, inputs, diag=True)
        return (prior - explained).clamp_min(1e-12)

    def predict(self, designs: Sequence[Design], scales: Sequence[Scale]) -> tuple[np.ndarray, np.ndarray]:
        """Return the joint posterior of log bits per byte: mean ``(n,)`` and covariance ``(n, n)``, without noise."""
        inputs = self.encode_realised(designs, scales)
        return self.mean_at(inputs).numpy(), self.covariance_at(inputs, inputs).numpy()

    def posterior_draws(self, designs: Sequence[Design], scales: Sequence[Scale], n: int, seed: int) -> np.ndarray:
        """Return ``n`` joint draws ``(n, n_designs)`` of bits per byte, the same for the same seed."""
        mean, covariance = self.predict(designs, scales)
        values, vectors = np.linalg.eigh(covariance)  # a root that exists also where designs repeat
        root = vectors * np.sqrt(np.clip(values, 0.0, None))
        normal = np.random.default_rng(seed).standard_normal((n, len(mean)))
        return np.asarray(np.exp(mean + normal @ root.T))


def exact_algebra() -> Any:
    """Make GPyTorch factorise exactly at every size: its iterative solvers are stochastic."""
    return gpytorch.settings.fast_computations(covar_root_decomposition=False, log_prob=False, solves=False)


def _encode(problem: Problem, designs: Sequence[Design], scales: Sequence[Scale], trunks: np.ndarray) -> Tensor:
    n_features = len(problem.space.feature_names)
    features = np.array([problem.features(design) for design in designs]).reshape(len(designs), n_features)
    return torch.from_numpy(np.column_stack([features, *log_scales(scales), trunks]))


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    product = a @ b.mT
    squared: Tensor = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * product
    return torch.clamp(squared, min=0.0)


def _through_law(law: LawMean, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    flat = log_scale.detach().reshape(-1, 2).numpy()
    mean, root = law.linearised(flat[:, 0], flat[:, 1])
    shape = log_scale.shape[:-1]
    return torch.from_numpy(mean).reshape(shape), torch.from_numpy(root).reshape(*shape, 5)
