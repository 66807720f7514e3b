"""The surrogate: a Gaussian process over log bits per byte whose mean is a scaling law.

    log bpb(design, scale) = law(scale; theta) + g(design, scale) + trunk + noise

- ``law``: :mod:`moe_search.search.law_mean`; its parameters' uncertainty is a kernel, so that an extrapolation
follows the
  law and widens as the law is unsure, where a stationary kernel would fall back to a constant.
- ``g``: product of a Matern-5/2 kernel over the design's features and a kernel over scales,

      k_design(f, f') (shared^2 + drift^2 c c' + local^2 exp(-|s - s'|^2 / 2)),

  with log compute ``c`` zero at the ladder's top: an effect that all scales share, one that grows or turns with scale
  (rankings that change), and what is peculiar to a scale.
- ``trunk``: noise that runs of one trunk have in common (initialisation, data order), whatever their horizons;
  ``noise``: the rest. Both start from seed repeats where there are any. A bad trunk (diverged, absurd) has more of it:
  one is hardly believed, many of them in one region are.

Two other forms exist to be compared with it (:mod:`moe_search.search.validation`): ``gp`` has a trend instead of the
law, ``log_linear`` a trend and a design part that is linear in the features.

Hyper-parameters are few, with priors in units of the spread between designs, and at their posterior maximum (MAP). The
class is a BoTorch model; ``predict`` and what the acquisition needs take the exact joint posterior from one Cholesky
factor, because a decision between designs is about their differences.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import gpytorch
import numpy as np
import torch
from botorch.models.gpytorch import GPyTorchModel
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.models import ExactGP
from scipy.optimize import Bounds, minimize
from torch import Tensor

from moe_search.search.observations import Observations, log_scales, observe, repeat_variance
from moe_search.search.problem import Problem
from moe_search.search.trend import Mean, trend_of
from moe_search.search.trial import Row
from moe_search.spaces.design import Design, Scale

MAX_FIT_ROWS = 200
"""Observations that hyper-parameters are fitted on (all condition the posterior): each trial's longest run first."""
MAX_FIT_STEPS = 40
TYPICAL_NOISE = 4e-3
"""Standard deviation of log bpb between seeds before any repeat has been seen: 0.4 %."""
LEAST_NOISE = 2e-4
DOUBT = 2.0
"""Standard deviation of the additional noise of a bad trunk, in units of the spread between designs."""
SQRT5 = math.sqrt(5.0)

Form = Literal["law_gp", "gp", "log_linear"]
FORMS: tuple[Form, ...] = ("law_gp", "gp", "log_linear")


class DesignScaleKernel(Kernel):  # type: ignore[misc]
    """Covariance of everything but the independent noise; columns: features, log N, log D, trunk (-1: none), bad.

    Args:
        law: fitted mean.
        is_linear: the design part is linear in the features, instead of Matern-5/2.
        n_features: columns of a design's features, each in [0, 1].
        unit: standard deviation of log loss between designs, which amplitudes are measured in.
        top: log N, log D of the ladder's top.
        span: spread of log N and of log D over the ladder.
        noise: standard deviation of log loss between runs of different trunks.
        noise_spread: standard deviation of its logarithm.
    """

    prior_mean: Tensor
    prior_spread: Tensor
    top: Tensor
    span: Tensor

    def __init__(
        self,
        law: Mean,
        n_features: int,
        *,
        is_linear: bool = False,
        unit: float,
        top: tuple[float, float],
        span: tuple[float, float],
        noise: float,
        noise_spread: float,
    ) -> None:
        super().__init__()
        self.law, self.n_features, self.is_linear = law, n_features, is_linear
        self.doubt = (DOUBT * unit) ** 2
        self.register_buffer("top", torch.tensor(top, dtype=torch.float64))
        self.register_buffer("span", torch.tensor(span, dtype=torch.float64))
        # Distances grow as sqrt(d); lengths that grow alike keep the prior's complexity (Hvarfner et al. 2024).
        length = 0.5 * math.sqrt(max(n_features, 1))
        amplitudes = [unit, 0.5 * unit, 0.3 * unit, noise / math.sqrt(2)]
        mean = torch.tensor([length] * n_features + amplitudes, dtype=torch.float64).log()
        spread = torch.tensor([0.5] * n_features + [0.6] * 3 + [noise_spread], dtype=torch.float64)
        self.register_buffer("prior_mean", mean)
        self.register_buffer("prior_spread", spread)
        self.log_parameters = torch.nn.Parameter(mean.clone())
        """Logarithms: a length for each feature; amplitudes shared, drift, local; trunk. Normal priors."""

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:  # noqa: FBT001, FBT002
        """Return the covariance ``(..., n1, n2)``, or its diagonal ``(..., n)``."""
        return self.variance(x1) if diag else self.covariance(self.log_parameters, x1, x2)

    def variance(self, x: Tensor) -> Tensor:
        """Return the prior variance ``(..., n)``."""
        shared, drift, local, trunk = (2 * self.log_parameters[self.n_features :]).exp()
        compute = self._scale(x).mean(-1)
        has_trunk, is_bad = x[..., self.n_features + 2] >= 0, x[..., self.n_features + 3]
        noise = (trunk + self.doubt * is_bad) * has_trunk
        designs = shared + drift * compute**2 + local
        if self.is_linear:
            lengths = self.log_parameters[: self.n_features].exp()
            designs = designs * ((x[..., : self.n_features] - 0.5) / lengths).square().sum(-1)
        variance: Tensor = designs + noise + self._law_root(x).square().sum(-1)
        return variance

    def covariance(self, log_parameters: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
        """Return the covariance ``(..., n1, n2)`` under any hyper-parameters."""
        d = self.n_features
        lengths, (shared, drift, local, trunk) = log_parameters[:d].exp(), (2 * log_parameters[d:]).exp()
        f1, f2 = (x1[..., :d] - 0.5) / lengths, (x2[..., :d] - 0.5) / lengths
        if self.is_linear:
            design_part = f1 @ f2.mT
        else:
            distance = SQRT5 * (_squared_distance(f1, f2) + 1e-20).sqrt()
            design_part = (1 + distance + distance**2 / 3) * (-distance).exp()

        s1, s2 = self._scale(x1), self._scale(x2)
        together = s1.mean(-1)[..., :, None] * s2.mean(-1)[..., None, :]
        near = (-0.5 * _squared_distance(s1, s2)).exp()
        scale_part = shared + drift * together + local * near

        trunk1, trunk2 = x1[..., :, None, d + 2], x2[..., None, :, d + 2]
        one_trunk = (trunk1 == trunk2) & (trunk1 >= 0)
        doubt = self.doubt * x1[..., :, None, d + 3] * x2[..., None, :, d + 3]
        law = self._law_root(x1) @ self._law_root(x2).mT
        covariance: Tensor = design_part * scale_part + law + (trunk + doubt) * one_trunk
        return covariance

    def _scale(self, x: Tensor) -> Tensor:
        """Return log N and log D in units of the ladder's span, zero at its top ``(..., n, 2)``."""
        return (x[..., self.n_features : self.n_features + 2] - self.top) / self.span

    def _law_root(self, x: Tensor) -> Tensor:
        """Return J S^1/2 ``(..., n, 5)``; without gradients by x, as scales are discrete."""
        return _through_law(self.law, x[..., self.n_features : self.n_features + 2])[1]


class LawModule(gpytorch.means.Mean):  # type: ignore[misc]
    """The law as a GPyTorch mean."""

    def __init__(self, law: Mean, n_features: int) -> None:
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

    def __init__(self, problem: Problem, observations: Observations, form: Form = "law_gp") -> None:
        self.problem, self.form = problem, form
        scales = log_scales(observations.scales)
        self.law: Mean = observations.law if form == "law_gp" else trend_of(*scales, observations.log_loss)
        n_features = len(problem.space.feature_names)
        inputs = _encode(problem, observations.designs, observations.scales, observations.trunks, observations.is_bad)
        targets = torch.from_numpy(observations.log_loss)
        variance, freedom = repeat_variance(observations)
        # The prior counts as two repeats: TYPICAL_NOISE is a guess that a few measured ones overrule.
        noise = math.sqrt((2 * TYPICAL_NOISE**2 + freedom * variance) / (2 + freedom))
        noise = max(noise, LEAST_NOISE)
        spread = 1 / math.sqrt(2 + freedom)  # of the log of a standard deviation, about 1 / sqrt(2 freedom)
        likelihood = GaussianLikelihood(noise_constraint=GreaterThan(0.0, transform=torch.exp, inv_transform=torch.log))
        likelihood = likelihood.double()
        likelihood.noise = torch.tensor(noise**2 / 2)
        super().__init__(inputs, targets, likelihood)
        sizes, tokens = log_scales(problem.ladder.scales())
        self.mean_module = LawModule(self.law, n_features)
        self.covar_module = DesignScaleKernel(
            self.law,
            n_features,
            is_linear=form == "log_linear",
            unit=observations.unit,
            top=(math.log(problem.ladder.top.n_active), math.log(problem.ladder.top.tokens)),
            span=(max(float(np.ptp(sizes)), 1.0), max(float(np.ptp(tokens)), 1.0)),
            noise=noise,
            noise_spread=spread,
        )
        self._factor: tuple[Tensor, Tensor] | None = None

    @classmethod
    def fit(cls, problem: Problem, rows: Sequence[Row], form: Form = "law_gp") -> "Surrogate | None":
        """Fit to all runs of ``rows``; None if none has a loss.

        Args:
            problem: names the features and the ladder.
            rows: trials with results; others are passed over.
            form: what is assumed.
        """
        observations = observe(problem, rows)
        if observations is None:
            return None
        surrogate = cls(problem, observations, form)
        surrogate._fit_hyperparameters(observations)
        return surrogate

    def _fit_hyperparameters(self, observations: Observations) -> None:
        """Maximise the log posterior of kernel parameters and noise, by L-BFGS within three prior deviations."""
        longest_first = np.argsort(np.logical_not(observations.is_last), kind="stable")
        chosen = np.sort(longest_first[:MAX_FIT_ROWS])
        x, kernel, noise = self.train_inputs[0][chosen], self.covar_module, self.likelihood.noise_covar.raw_noise
        with torch.no_grad():
            centred = (self.train_targets[chosen] - self.mean_module(x))[:, None]
        center = torch.cat([kernel.prior_mean, noise.detach() / 2])
        spread = torch.cat([kernel.prior_spread, kernel.prior_spread[-1:]])

        def negative_log_posterior(vector: np.ndarray) -> tuple[float, np.ndarray]:
            point = torch.from_numpy(vector).requires_grad_()
            covariance = kernel.covariance(point[:-1], x, x)
            factor = torch.linalg.cholesky(covariance + (2 * point[-1]).exp() * torch.eye(len(x), dtype=x.dtype))
            whitened = torch.linalg.solve_triangular(factor, centred, upper=False)
            value = (
                0.5 * whitened.square().sum()
                + factor.diagonal().log().sum()
                + 0.5 * ((point - center) / spread).square().sum()
            )
            return value.item(), torch.autograd.grad(value, point)[0].numpy()

        low, high = (center - 3 * spread).numpy(), (center + 3 * spread).numpy()
        found = minimize(
            negative_log_posterior,
            center.numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(low, high),
            options={"maxiter": MAX_FIT_STEPS},
        )
        with torch.no_grad():
            kernel.log_parameters.copy_(torch.from_numpy(found.x[:-1]))
            noise.copy_(torch.from_numpy(2 * found.x[-1:]))
        self.eval()

    def forward(self, x: Tensor) -> MultivariateNormal:
        """Return the prior at ``x`` (encoded)."""
        return MultivariateNormal(self.mean_module(x), self.covar_module(x))

    @property
    def noise_variance(self) -> float:
        """Variance of log bpb between seeds: the trunk's share and the rest."""
        trunk = math.exp(2 * self.covar_module.log_parameters[-1].item())
        return trunk + float(self.likelihood.noise.item())

    def encode(self, designs: Sequence[Design], scales: Sequence[Scale]) -> Tensor:
        """Return inputs ``(n, n_features + 4)``: features, log N, log D, no trunk, not bad; of realised designs."""
        return _encode(self.problem, designs, scales, np.full(len(designs), -1.0), np.zeros(len(designs)))

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
        inputs[:, -2] = torch.tensor(trunks, dtype=torch.float64)
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

    def observing(self, options: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
        """Return what an acquisition needs of runs: covariance with the choices, and variance, both posterior.

        Args:
            options: encoded runs ``(O, ...)``.
            choices: encoded designs at the target ``(M, ...)``.

        Returns:
            ``(O, M)`` and ``(O,)``, as :meth:`covariance_at` and :meth:`variance_at` have them, in one solve.
        """
        factor, _ = self._conditioned()
        x = self.train_inputs[0]
        with torch.no_grad():
            both = self.covar_module.forward(x, torch.cat([options, choices]))
            explained = torch.linalg.solve_triangular(factor, both, upper=False)
            left, right = explained[:, : len(options)], explained[:, len(options) :]
            covariance: Tensor = self.covar_module.forward(options, choices) - left.mT @ right
            variance: Tensor = self.covar_module.forward(options, options, diag=True) - left.square().sum(0)
        return covariance, variance.clamp_min(1e-12)

    def variance_at(self, inputs: Tensor) -> Tensor:
        """Return the posterior variance of log bpb ``(n,)``."""
        factor, _ = self._conditioned()
        with torch.no_grad():
            cross = self.covar_module.forward(self.train_inputs[0], inputs)
            explained = torch.linalg.solve_triangular(factor, cross, upper=False).square().sum(0)
            prior = self.covar_module.forward(inputs, inputs, diag=True)
        variance: Tensor = (prior - explained).clamp_min(1e-12)
        return variance

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


def _encode(
    problem: Problem, designs: Sequence[Design], scales: Sequence[Scale], trunks: np.ndarray, bad: np.ndarray
) -> Tensor:
    features, log_tokens = problem.coordinates(designs, scales)
    return torch.from_numpy(np.column_stack([features, log_scales(scales)[0], log_tokens, trunks, bad]))


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    product = a @ b.mT
    squared = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * product
    positive: Tensor = torch.relu(squared)
    return positive


def _through_law(law: Mean, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    flat = log_scale.detach().reshape(-1, 2).numpy()
    mean, root = law.linearised(flat[:, 0], flat[:, 1])
    shape = log_scale.shape[:-1]
    return torch.from_numpy(mean).reshape(shape), torch.from_numpy(root).reshape(*shape, 5)
