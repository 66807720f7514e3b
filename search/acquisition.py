"""The exact discrete knowledge gradient: what one more run is worth to the choice between designs at the target.

If run x is done, the posterior means at the target move together along one direction: mean + sigma(x) Z, with Z
standard normal and sigma_j(x) = cov(f_j, f(x)) / sd(y(x)). The choice afterwards is the best design, so the run is
worth

    KG(x) = E[max_j (a_j + b_j Z)] - max_j a_j,       a = -mean, b = -sigma(x)

the expected maximum of affine functions of a normal variable, which has a closed form: the maximum is piecewise affine
with knots c_i between the lines i of its upper envelope, and

    KG(x) = sum_i (b_{i+1} - b_i) (phi(c_i) - |c_i| Phi(-|c_i|))

Frazier, Powell and Dayanik 2009, "The knowledge-gradient policy for correlated normal beliefs", equations (11)-(14).
Nothing is sampled and nothing optimised, so thousands of (design, scale) options are compared in a fraction of a
second, at any fidelity: the scale only enters through the covariance.
"""

import math

import torch
from torch import Tensor

# O options (runs to choose from), M choices (designs at the target).


def expected_gain(a: Tensor, b: Tensor) -> Tensor:
    """Return E[max_j (a_j + b_j Z)] - max_j a_j for Z ~ N(0, 1).

    The envelope is walked from Z = -inf upwards in all rows at once: from the current line, the next one is that which
    crosses it first among the steeper ones.

    Args:
        a: intercepts ``(M,)``, shared by all rows.
        b: slopes ``(O, M)``.

    Returns:
        The gain ``(O,)``, never negative.
    """
    a = a.expand_as(b)
    rows = torch.arange(len(b))
    # At Z = -inf the flattest line leads; among equally flat ones the highest.
    flattest = b == b.min(dim=1, keepdim=True).values
    line = torch.where(flattest, a, -torch.inf).argmax(dim=1)
    gain = torch.zeros(len(b), dtype=b.dtype)
    active = torch.ones(len(b), dtype=torch.bool)
    while active.any():
        slope, intercept = b[rows, line][:, None], a[rows, line][:, None]
        steeper = b > slope
        crossing = torch.where(steeper, (intercept - a) / torch.where(steeper, b - slope, 1.0), torch.inf)
        knot = crossing.min(dim=1).values
        # Lines through one point: the steepest of them leads afterwards.
        first = crossing == knot[:, None]
        following = torch.where(first & steeper, b, -torch.inf).argmax(dim=1)
        active = torch.isfinite(knot)
        gain += torch.where(active, (b[rows, following] - slope[:, 0]) * _loss_function(knot), 0.0)
        line = torch.where(active, following, line)
    return gain


def knowledge_gradient(mean: Tensor, covariance: Tensor, observed_variance: Tensor) -> Tensor:
    """Return how much each option lowers the expected least value of the final choice.

    Args:
        mean: posterior means of the choices ``(M,)``; less is better.
        covariance: posterior covariance between options and choices ``(O, M)``.
        observed_variance: posterior variance of what each option would show, noise included ``(O,)``.

    Returns:
        The knowledge gradient ``(O,)``, in the units of ``mean``.
    """
    return expected_gain(-mean, -covariance / observed_variance.sqrt()[:, None])


def _loss_function(knot: Tensor) -> Tensor:
    """Return phi(c) - |c| Phi(-|c|): what a kink at ``knot`` adds for every unit by which the slope changes."""
    z = knot.abs().clamp_max(40.0)
    density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return torch.clamp_min(density - z * torch.special.ndtr(-z), 0.0)
