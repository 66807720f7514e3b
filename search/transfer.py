"""What cheap runs say about expensive ones: a Gaussian process over designs, each fidelity correlated with the target.

    log loss(x, s) = level_s + amplitude_s (r_s g(x) + sqrt(1 - r_s^2) own_s(x)) + noise_s,      r of the target = 1

g and every own_s have one Matern-5/2 kernel over the design's features. r near 1 says that a fidelity ranks designs as
the target does, near 0 that it says nothing, below 0 that it says the opposite (the intrinsic model of
coregionalisation, Bonilla et al. 2008, with one shared component). How far designs differ at a fidelity does not depend
on r, so that a model whose proxies turn out to be worthless is one of the target alone. Nothing is assumed of how
levels depend on scale: where a scaling law is known, :mod:`moe_search.search.surrogate` has it as the mean.

Losses far above the others of their fidelity are entered at the largest that still counts as ordinary: a diverged run
was bad, and how bad does not matter. Hyper-parameters are at their posterior maximum under weak priors.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import Bounds, minimize
from torch import Tensor

Array = npt.NDArray[np.float64]

ORDINARY = 4.0
"""Robust standard deviations above the median of a fidelity, beyond which a loss is cut."""
FEWEST_TO_CUT = 5
TYPICAL_UNIT = 0.02
"""Standard deviation of log loss between designs before two have been seen."""
TYPICAL_CORRELATION = 0.85
"""Between a fidelity and the target, before runs at both have been seen."""
TYPICAL_NOISE = 0.1
"""Between runs of one design, in units of the spread between designs."""
LEVEL_SPREAD = 10.0
"""Standard deviation of a fidelity's level, in units of the spread between designs: it is free."""
NUGGET = 1e-8
"""Least variance of log loss: nobody decides by a ten-thousandth of a loss."""
LENGTH_SPREAD = 1.7
"""Of the logarithm of a length, as wide as BoTorch's default: features that do not matter must be able to drop out."""
BOUND = 4.0
"""Of hyper-parameters, in standard deviations of their priors."""
STEPS, STEPS_AGAIN = 30, 12
"""Of the optimiser: at first, and from the previous optimum."""
SQRT5 = math.sqrt(5.0)


@dataclass(frozen=True)
class _Parts:
    length: Tensor
    amplitude: Tensor
    correlation: Tensor
    noise: Tensor


class TransferModel:
    """The posterior of log loss over designs and fidelities.

    Args:
        features: (n, features) of the observed designs.
        fidelity: (n,) of the observations, the target being the last.
        log_loss: (n,).
        n_fidelities: how many there are.
        previous: hyper-parameters of an earlier model of the same fidelities, to start from.
    """

    def __init__(
        self,
        features: Array,
        fidelity: npt.NDArray[np.intp],
        log_loss: Array,
        n_fidelities: int,
        previous: Array | None = None,
    ) -> None:
        self.n_fidelities, self.n_features = n_fidelities, features.shape[1]
        cut, unit = _ordinary(log_loss, fidelity, n_fidelities)
        self.level = LEVEL_SPREAD * float(unit.max())
        self.offset = float(cut.mean())
        self._x, self._s = torch.from_numpy(features), torch.from_numpy(fidelity.astype(np.int64))
        self._y = torch.from_numpy(cut - self.offset)
        # Distances grow as sqrt(features); lengths that grow alike keep the prior's complexity (Hvarfner et al. 2024).
        moving = features.std(axis=0)
        typical = float(np.median(moving[moving > 0])) if (moving > 0).any() else 1.0
        length = math.log(math.sqrt(self.n_features) * typical)
        self._center = torch.tensor(
            [length] * self.n_features
            + np.log(unit).tolist()
            + [math.atanh(TYPICAL_CORRELATION)] * (n_fidelities - 1)
            + [math.log(TYPICAL_NOISE)] * n_fidelities,
            dtype=torch.float64,
        )
        self._spread = torch.tensor(
            [LENGTH_SPREAD] * self.n_features
            + [0.7] * n_fidelities
            + [0.7] * (n_fidelities - 1)
            + [0.8] * n_fidelities,
            dtype=torch.float64,
        )
        self.hyperparameters = self._fit(previous)
        self._point = torch.from_numpy(self.hyperparameters)
        parts = self._parts(self._point)
        self.noise_variance = (parts.amplitude * parts.noise) ** 2
        """(fidelities,): of log loss between runs of one design."""
        self._factor = torch.linalg.cholesky(self._observed(self._point))
        self._alpha = torch.cholesky_solve(self._y[:, None], self._factor)[:, 0]

    @property
    def correlation(self) -> Array:
        """Of the differences between designs at each fidelity with those at the target (fidelities,)."""
        correlation: Array = self._parts(self._point).correlation.numpy()
        return correlation

    def mean(self, features: Tensor, fidelity: Tensor) -> Tensor:
        """Return the posterior mean of log loss (n,)."""
        mean: Tensor = self.offset + self._kernel(self._point, features, fidelity, self._x, self._s) @ self._alpha
        return mean

    def covariance(self, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Tensor:
        """Return the posterior covariance (n_left, n_right) of log loss; sides are (features, fidelity)."""
        to_left, to_right = (
            torch.linalg.solve_triangular(self._factor, self._kernel(self._point, self._x, self._s, *side), upper=False)
            for side in (left, right)
        )
        covariance: Tensor = self._kernel(self._point, *left, *right) - to_left.T @ to_right
        return covariance

    def variance(self, features: Tensor, fidelity: Tensor) -> Tensor:
        """Return the posterior variance (n,) of log loss without noise."""
        cross = self._kernel(self._point, self._x, self._s, features, fidelity)
        reduced = torch.linalg.solve_triangular(self._factor, cross, upper=False)
        parts = self._parts(self._point)
        prior = parts.amplitude[fidelity] ** 2 + self.level**2
        variance: Tensor = (prior - reduced.square().sum(dim=0)).clamp_min(1e-14)
        return variance

    def left_out(self, fidelity: int) -> float:
        """Return the log density of a fidelity's observations, each predicted from all others (Sundararajan 2001)."""
        inverse = torch.cholesky_inverse(self._factor)
        chosen = self._s == fidelity
        variance = 1 / inverse.diagonal()[chosen]
        error = self._alpha[chosen] * variance
        density: Tensor = (-0.5 * torch.log(2 * math.pi * variance) - 0.5 * error**2 / variance).sum()
        return density.item()

    def foreseen(self, fidelity: int) -> float:
        """Return by how much :meth:`left_out` exceeds that of a constant with the losses' spread, for one fidelity.

        About what the hyper-parameters overfit where a fidelity's losses have nothing to do with the designs, and
        far above it where designs alike have losses alike. 0 where fewer than three runs say nothing.
        """
        values = self._y[self._s == fidelity]
        n = len(values)
        if n < 3:
            return 0.0
        others = (values.sum() - values) / (n - 1)
        variance = (values.var() * n / (n - 1)).clamp_min(1e-14)
        constant = -0.5 * torch.log(2 * math.pi * variance) - 0.5 * (values - others) ** 2 / variance
        return self.left_out(fidelity) - float(constant.sum())

    def _parts(self, point: Tensor) -> _Parts:
        d, m = self.n_features, self.n_fidelities
        length, amplitude, correlation, noise = torch.split(point, [d, m, m - 1, m])
        return _Parts(
            length.exp(),
            amplitude.exp(),
            torch.cat([correlation.tanh(), torch.ones(1, dtype=point.dtype)]),
            noise.exp(),
        )

    def _kernel(self, point: Tensor, x1: Tensor, s1: Tensor, x2: Tensor, s2: Tensor) -> Tensor:
        parts = self._parts(point)
        a, b = x1 / parts.length, x2 / parts.length
        squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
        distance = SQRT5 * squared.clamp_min(1e-18).sqrt()
        near = (1 + distance + distance**2 / 3) * (-distance).exp()
        same = s1[:, None] == s2[None]
        r1, r2 = parts.correlation[s1][:, None], parts.correlation[s2][None]
        across = torch.where(same, 1.0, r1 * r2) * parts.amplitude[s1][:, None] * parts.amplitude[s2][None]
        return near * across + same.to(near.dtype) * self.level**2  # a bool times a number is float32

    def _observed(self, point: Tensor) -> Tensor:
        parts = self._parts(point)
        noise = (parts.amplitude * parts.noise)[self._s] ** 2 + NUGGET
        return self._kernel(point, self._x, self._s, self._x, self._s) + torch.diag(noise)

    def _fit(self, previous: Array | None) -> Array:
        """Maximise the log posterior of the hyper-parameters."""

        def negative_log_posterior(vector: Array) -> tuple[float, Array]:
            point = torch.from_numpy(vector).requires_grad_()
            factor = torch.linalg.cholesky(self._observed(point))
            whitened = torch.linalg.solve_triangular(factor, self._y[:, None], upper=False)
            value = (
                0.5 * whitened.square().sum()
                + factor.diagonal().log().sum()
                + 0.5 * ((point - self._center) / self._spread).square().sum()
            )
            return value.item(), torch.autograd.grad(value, point)[0].numpy()

        low, high = (self._center - BOUND * self._spread).numpy(), (self._center + BOUND * self._spread).numpy()
        start = self._center.numpy() if previous is None else np.clip(previous, low, high)
        found = minimize(
            negative_log_posterior,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(low, high),
            options={"maxiter": STEPS if previous is None else STEPS_AGAIN},
        )
        return np.asarray(found.x, dtype=np.float64)


def _ordinary(log_loss: Array, fidelity: npt.NDArray[np.intp], n_fidelities: int) -> tuple[Array, Array]:
    """Cut losses that are absurd for their fidelity; return them and the spread between designs (fidelities,).

    A fidelity with too few runs to tell has the spread of the one with the most.
    """
    cut, unit, counts = log_loss.copy(), np.full(n_fidelities, np.nan), np.zeros(n_fidelities)
    for s in range(n_fidelities):
        chosen = fidelity == s
        counts[s] = chosen.sum()
        if counts[s] < FEWEST_TO_CUT:
            continue
        middle = float(np.median(log_loss[chosen]))
        spread = 1.4826 * float(np.median(np.abs(log_loss[chosen] - middle)))
        cut[chosen] = np.minimum(log_loss[chosen], middle + ORDINARY * max(spread, 1e-4))
        unit[s] = cut[chosen].std()
    most = int(counts.argmax())
    if not np.isfinite(unit[most]):
        unit[most] = cut[fidelity == most].std() if counts[most] > 1 else TYPICAL_UNIT
    return cut, np.maximum(np.where(np.isfinite(unit), unit, unit[most]), 1e-4)
