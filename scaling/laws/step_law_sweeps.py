"""Learning rate and batch from sweeps: the valley of ``step_law``, with a free level for every (N, D).

    ln L = ln level(N, D) + h V(u - k v; s) + g V(v; t)

A dense law is wrong by half a percent at one size and half a percent the other way at the next, which is more than the
wrong rate costs near the optimum; a fit then bends the optimum to make up for it. Where each (N, D) has a sweep of its
own, its level need not be explained: this law has one parameter a sweep, which says nothing of another (N, D), while
the optimum lr*(N, D), B*(N, D) says something of all. Fit it near the optimum, where the valley holds:

    --where 'loss < 1.01 * MIN(loss) OVER (PARTITION BY n_active, tokens)'
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from moe_search.scaling.law import Array, Law, Term, Variables, amplitude
from moe_search.scaling.laws.step_law import PUBLISHED, VALLEY, at_one, sweep_variables, with_valley
from moe_search.spaces.errors import InvalidInputError

SWEEP = re.compile(r"[0-9.e+]+/[0-9.e+]+")
"""Parameters and tokens, as a sweep is named."""


class StepLawSweeps(Law):
    """One level a sweep; bound to no sweeps, one level for all runs."""

    name = "step_law_sweeps"
    equation = (
        "ln L = ln level + h (exp(s x) - 1 - s x)/s^2 + g (exp(t v) - 1 - t v)/t^2, x = u - k v, "
        "u = ln(lr/(lr0 (N/1e9)^lr_N (D/1e11)^lr_D)), v = ln(batch/(B0 (N/1e9)^B_N (D/1e11)^B_D))"
    )
    source = "Li et al. 2025, arXiv 2503.04715 (lr* and B*); the valley and its levels are this project's"
    convention = (
        "N: active parameters without embeddings (n_active, n_total where a table has no other); D: tokens; lr: peak "
        "learning_rate; batch: batch_tokens; a sweep is all runs of one (N, D)"
    )
    published = PUBLISHED

    def __init__(self, sweeps: Sequence[str] = ()) -> None:
        self.domains = tuple(sweeps)
        levels = [f"level/{sweep}" for sweep in self.domains] or ["level"]
        self.parameters = (*(amplitude(name, "loss at the best rate and batch", 2.5) for name in levels), *VALLEY)

    def groups(self, frame: pl.DataFrame) -> tuple[str, ...]:
        """Return the sweeps of a table, named N/D."""
        x = sweep_variables(frame, law=self.name)
        return tuple(dict.fromkeys(_names(x["N"], x["D"])))

    def for_domains(self, domains: Sequence[str]) -> Law:
        """Return the law with a level for each of these sweeps; itself for names that are no sweeps."""
        sweeps = domains and all(SWEEP.fullmatch(name) for name in domains)
        return StepLawSweeps(domains) if sweeps else self

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N, D, lr, batch and, as indicators (runs, sweeps), which sweep a run is of.

        Raises:
            InvalidInputError: a run is of no sweep that the law is bound to, so that its level is not known.
        """
        x = sweep_variables(frame, law=self.name)
        names = _names(x["N"], x["D"])
        unknown = sorted(set(names) - set(self.domains)) if self.domains else []
        if unknown:
            raise InvalidInputError(
                f"no level was fitted for the sweep {unknown[0]} (N/D)",
                where=f"law {self.name}",
                allowed=", ".join(self.domains),
                fix="--law step_law predicts losses of other sizes and tokens",
            )
        member = np.array([[name == sweep for sweep in self.domains] for name in names], dtype=np.float64)
        return {**x, "sweep": member if self.domains else np.ones((frame.height, 1))}

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the level, which the valley multiplies."""
        member = x["sweep"]
        level = np.concatenate(theta[: member.shape[1]], axis=1) @ member.T
        return (Term(level, {j: member[:, j] for j in range(member.shape[1])}),)

    def log_loss_and_jacobian(self, theta: Array, x: Variables) -> tuple[Array, Array]:
        """Return the level plus the valley, and the Jacobian."""
        value, jacobian = super().log_loss_and_jacobian(theta, x)
        return with_valley(value, jacobian, theta, x)

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return the source's coefficients, at one parameter and one token."""
        return at_one(natural)


def _names(n: Array, d: Array) -> list[str]:
    return [f"{size:.6g}/{tokens:.6g}" for size, tokens in zip(n, d, strict=True)]


LAW = StepLawSweeps()
