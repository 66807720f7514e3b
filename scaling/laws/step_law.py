"""Learning rate and batch: Step Law, Li et al. 2025 (arXiv 2503.04715), as a loss surface that can be fitted.

    lr* = 1.79 N^-0.713 D^0.307,     B* = 0.58 D^0.571 tokens

say where the loss is lowest, not what it costs to be elsewhere. Taking the best cell of each (N, D) and regressing on
them is a trap: near the optimum the loss is flat and seeds decide which cell wins. Here all runs of a sweep are fitted
at once, the dense law times a valley around the optimum,

    ln L = ln(E + A/N^alpha + B/D^beta) + h V(u - k v; s) + g V(v; t)
    u = ln(lr/lr*),    v = ln(batch/B*),    V(x; s) = (exp(s x) - 1 - s x)/s^2

V is x^2/2 close to its bottom, and for s > 0 steeper on the high side (a rate that is too high diverges, one that is
too low learns slowly); s = 0 is the quadratic. k says how the best rate moves with the batch away from B*; the source
has k = 0. Rates and batches of the optimum are stated at N = 1e9 and D = 1e11, where one can imagine them; the source's
numbers at one parameter and one token are derived.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.columns import positive
from moe_search.scaling.law import Array, Law, Parameter, Term, Variables, amplitude, coefficient, exponent

N0, D0 = 1e9, 1e11
"""Parameters and tokens that the optimum is stated at."""
SMALL = 0.02
"""Product s x below which the series of V is exact."""


def _positive(name: str, meaning: str, center: float, low: float, high: float, *variables: str) -> Parameter:
    return Parameter(
        name=name,
        meaning=meaning,
        transform="log",
        lower=low,
        upper=high,
        center=center,
        spread=1.0,
        variables=variables,
    )


def _published_rate(n: float, d: float) -> float:
    return float(1.79 * n**-0.713 * d**0.307)


def _published_batch(d: float) -> float:
    return float(0.58 * d**0.571)


VALLEY = (
    _positive("lr0", "best rate at N = 1e9, D = 1e11", _published_rate(N0, D0), 1e-7, 10.0, "lr"),
    coefficient("lr_N", "exponent of parameters in the best rate", -0.713, "lr", "N", spread=0.2),
    coefficient("lr_D", "exponent of tokens in the best rate", 0.307, "lr", "D", spread=0.2),
    _positive("B0", "best batch in tokens at D = 1e11", _published_batch(D0), 1.0, 1e10, "batch"),
    coefficient("B_N", "exponent of parameters in the best batch", 0.0, "batch", "N", spread=0.2),
    coefficient("B_D", "exponent of tokens in the best batch", 0.571, "batch", "D", spread=0.2),
    _positive("h", "curvature of ln L in ln lr", 0.01, 1e-6, 10.0, "lr"),
    coefficient("s", "how much steeper it is above lr* than below", 0.5, "lr", spread=0.5),
    _positive("g", "curvature of ln L in ln batch", 0.01, 1e-6, 10.0, "batch"),
    coefficient("t", "how much steeper it is above B* than below", 0.0, "batch", spread=0.5),
    coefficient("k", "power of the batch that the best rate moves with", 0.2, "lr", "batch", spread=0.3),
)
"""Parameters of the optimum and of the valley around it, for every law that has one."""

PUBLISHED = MappingProxyType(
    {
        "li2025": {
            "lr0": _published_rate(N0, D0),
            "lr_N": -0.713,
            "lr_D": 0.307,
            "B0": _published_batch(D0),
            "B_N": 0.0,
            "B_D": 0.571,
            "k": 0.0,
        }
    }
)


class StepLaw(Law):
    """A dense law that knows what the wrong learning rate and batch cost."""

    name = "step_law"
    equation = (
        "ln L = ln(E + A/N^alpha + B/D^beta) + h (exp(s x) - 1 - s x)/s^2 + g (exp(t v) - 1 - t v)/t^2, x = u - k v, "
        "u = ln(lr/(lr0 (N/1e9)^lr_N (D/1e11)^lr_D)), v = ln(batch/(B0 (N/1e9)^B_N (D/1e11)^B_D))"
    )
    source = "Li et al. 2025, arXiv 2503.04715 (lr* and B*); the valley around them is this project's"
    convention = (
        "N: active parameters without embeddings (n_active, n_total where a table has no other); D: tokens; lr: peak "
        "learning_rate; batch: batch_tokens"
    )
    parameters = (
        amplitude("E", "irreducible loss", 1.7, spread=0.5),
        amplitude("A", "loss at N = 1 from finite parameters", 480.0, "N"),
        amplitude("B", "loss at D = 1 from finite tokens", 2000.0, "D"),
        exponent("alpha", "exponent of parameters", 0.34, "N"),
        exponent("beta", "exponent of tokens", 0.36, "D"),
        *VALLEY,
    )
    published = PUBLISHED

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N, D, lr and batch."""
        return sweep_variables(frame, law=self.name)

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the terms of the dense law, which the valley multiplies."""
        e, a, b, alpha, beta = theta[:5]
        log_n, log_d = np.log(x["N"]), np.log(x["D"])
        return (
            Term(e, {0: 1.0}),
            Term(a - alpha * log_n, {1: 1.0, 3: -log_n}),
            Term(b - beta * log_d, {2: 1.0, 4: -log_d}),
        )

    def log_loss_and_jacobian(self, theta: Array, x: Variables) -> tuple[Array, Array]:
        """Return the dense law's log loss plus the valley, and the Jacobian."""
        value, jacobian = super().log_loss_and_jacobian(theta, x)
        return with_valley(value, jacobian, theta, x)

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return the source's coefficients, at one parameter and one token."""
        return at_one(natural)


def sweep_variables(frame: pl.DataFrame, *, law: str) -> Variables:
    """Return N, D, lr and batch."""
    return {
        "N": positive(frame, "n_active_non_embedding", "n_active", "n_total", law=law),
        "D": positive(frame, "tokens", law=law),
        "lr": positive(frame, "learning_rate", law=law),
        "batch": positive(frame, "batch_tokens", law=law),
    }


def with_valley(value: Array, jacobian: Array, theta: Array, x: Variables) -> tuple[Array, Array]:
    """Add the valley to a log loss (batch, runs), and its derivatives to the Jacobian, of a law that ends on VALLEY."""
    first = theta.shape[1] - len(VALLEY)
    log_lr0, lr_n, lr_d, log_b0, b_n, b_d, h, s, g, t, k = (theta[:, j : j + 1] for j in range(first, theta.shape[1]))
    log_n, log_d = np.log(x["N"] / N0), np.log(x["D"] / D0)
    v = np.log(x["batch"]) - log_b0 - b_n * log_n - b_d * log_d
    u = np.log(x["lr"]) - log_lr0 - lr_n * log_n - lr_d * log_d - k * v
    across, across_u, across_s = _wall(u, s)
    along, along_v, along_t = _wall(v, t)
    h, g = np.exp(h), np.exp(g)
    by_u, by_v = h * across_u, g * along_v - h * k * across_u
    optimum = (-by_u, -by_u * log_n, -by_u * log_d, -by_v, -by_v * log_n, -by_v * log_d)
    shape = (h * across, h * across_s, g * along, g * along_t, -by_u * v)
    for j, slope in enumerate((*optimum, *shape), start=first):
        jacobian[:, j] = slope
    return value + h * across + g * along, jacobian


def at_one(natural: Mapping[str, Array]) -> dict[str, Array]:
    """Return lr* and B* at one parameter and one token."""
    rate = np.log(natural["lr0"]) - natural["lr_N"] * np.log(N0) - natural["lr_D"] * np.log(D0)
    batch = np.log(natural["B0"]) - natural["B_N"] * np.log(N0) - natural["B_D"] * np.log(D0)
    return {"lr_at_one": np.exp(rate), "B_at_one": np.exp(batch)}


def best_rate_and_batch(natural: Mapping[str, float], n: float, d: float) -> tuple[float, float]:
    """Return the best learning rate and batch (tokens) for ``n`` parameters and ``d`` tokens."""
    rate = natural["lr0"] * (n / N0) ** natural["lr_N"] * (d / D0) ** natural["lr_D"]
    batch = natural["B0"] * (n / N0) ** natural["B_N"] * (d / D0) ** natural["B_D"]
    return float(rate), float(batch)


def _wall(x: Array, s: Array) -> tuple[Array, Array, Array]:
    """Return V(x; s) and its derivatives by x and by s, each (batch, runs)."""
    z = s * x
    near = np.abs(z) < SMALL
    safe = np.where(near, 1.0, z)
    rise = np.where(near, 1 + z * (1 / 2 + z * (1 / 6 + z * (1 / 24 + z / 120))), np.expm1(safe) / safe)
    shape = np.where(near, 1 / 2 + z * (1 / 6 + z * (1 / 24 + z * (1 / 120 + z / 720))), (rise - 1) / safe)
    bend = np.where(near, 1 / 6 + z * (1 / 12 + z * (1 / 40 + z * (1 / 180 + z / 1008))), (rise - 2 * shape) / safe)
    return x**2 * shape, x * rise, x**3 * bend


LAW = StepLaw()
