"""The learning-rate rule from the sweep: the best rate of every cell, then one regression over cells.

    python -m moe_search.experiments.reproductions.learning_rate_sweep.fit

The best rate of a cell at a horizon is the vertex of a parabola in log rate through the rates whose loss is within
``NEAR`` of the best one. The rule is ordinary least squares on the logarithms of

    best rate = base · (n_active / N0)^a · (n_experts / E0)^b · (tokens / D0)^c · (batch / B0)^d

over cells and horizons. ``LearningRateRule`` carries the result, rounded; a test holds them together.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from moe_search.proxies.training.recipe import LearningRateRule, TrainingRecipe, learning_rate
from moe_search.scaling.runs import read_runs

TABLE = Path(__file__).with_name("runs.parquet")
NEAR = 0.12
"""Nats a token: wider, and the loss is no parabola; narrower, and seed noise moves the vertex."""


class Best(NamedTuple):
    """The best rate of one cell at one horizon."""

    d_model: int
    n_layers: int
    n_experts: float
    top_k: int
    n_active: int
    batch_tokens: int
    seed: int
    tokens: int
    rate: float
    loss: float
    """At the vertex, nats a token."""
    curvature: float = 0.0
    """Nats a token that a rate costs which is off by a factor e."""

    @property
    def cost_of_rule(self) -> float:
        """Nats a token that the default recipe's rate costs in this cell."""
        rate = learning_rate(
            TrainingRecipe(), n_active=self.n_active, n_experts=self.n_experts, batch=self.batch_tokens
        )
        return self.curvature * math.log(rate / self.rate) ** 2


class Fitted(NamedTuple):
    """The rule and how well it is known."""

    rule: LearningRateRule
    standard_errors: tuple[float, ...]
    """Of log base and of the exponents of n_active, n_experts, tokens and batch."""
    residual: float
    """Standard deviation of log best rate around the rule."""


def best_rates(frame: pl.DataFrame) -> list[Best]:
    """Return the vertex of every cell and horizon whose best rate lies inside the rates tried."""
    keys = ["d_model", "n_layers", "n_experts", "top_k", "n_active_non_embedding", "batch_tokens", "seed", "tokens"]
    found = []
    for key, cell in (
        frame.filter(pl.col("status") == "finished").sort("learning_rate").group_by(keys, maintain_order=True)
    ):
        rate, loss = cell["learning_rate"].to_numpy(), cell["loss"].to_numpy()
        at = int(loss.argmin())
        if not 0 < at < len(rate) - 1:
            continue
        near = (loss <= loss[at] + NEAR) | (np.abs(np.arange(len(rate)) - at) <= 1)
        a, b, c = np.polyfit(np.log(rate[near] / rate[at]), loss[near], 2)
        if a > 0:
            vertex = float(rate[at] * np.exp(-b / (2 * a)))
            found.append(Best._make((*key, vertex, float(c - b**2 / (4 * a)), float(a))))
    return found


def fit_rule(cells: list[Best], centre: LearningRateRule | None = None) -> Fitted:
    """Return the least-squares rule over ``cells``, around the centre that the default rule has."""
    centre = centre or LearningRateRule()
    design = np.array(
        [
            [
                1.0,
                np.log(cell.n_active / centre.n_active_centre),
                np.log(max(cell.n_experts, 1.0) / centre.n_experts_centre),
                np.log(cell.tokens / centre.tokens_centre),
                np.log(cell.batch_tokens / centre.batch_centre),
            ]
            for cell in cells
        ]
    )
    target = np.log([cell.rate for cell in cells])
    theta, *_ = np.linalg.lstsq(design, target, rcond=None)
    residual = float(np.sqrt(np.sum((target - design @ theta) ** 2) / (len(cells) - len(theta))))
    errors = residual * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    rule = centre.replace(
        base=float(np.exp(theta[0])),
        n_active_exponent=float(theta[1]),
        n_experts_exponent=float(theta[2]),
        tokens_exponent=float(theta[3]),
        batch_exponent=float(theta[4]),
    )
    return Fitted(rule, tuple(float(error) for error in errors), residual)


def main() -> None:
    """Print the cells and the rule."""
    cells = best_rates(read_runs(TABLE).frame)
    table = Table(
        "width", "layers", "experts", "top k", "active", "batch", "seed", "tokens", "best rate", "loss", "rule costs"
    )
    for cell in cells:
        table.add_row(
            *(f"{value:g}" for value in cell[:4]),
            f"{cell.n_active:,}",
            *(f"{value}" for value in cell[5:7]),
            f"{cell.tokens:,}",
            f"{cell.rate:.4f}",
            f"{cell.loss:.3f}",
            f"{cell.cost_of_rule:.3f}",
        )
    fitted = fit_rule(cells)
    console = Console(width=110)
    console.print(table)
    rule, errors = fitted.rule, fitted.standard_errors
    console.print(f"base               {rule.base:.5f}  (± {100 * errors[0]:.0f} %)")
    console.print(f"n_active exponent  {rule.n_active_exponent:+.3f} ± {errors[1]:.3f}")
    console.print(f"n_experts exponent {rule.n_experts_exponent:+.3f} ± {errors[2]:.3f}")
    console.print(f"tokens exponent    {rule.tokens_exponent:+.3f} ± {errors[3]:.3f}")
    console.print(f"batch exponent     {rule.batch_exponent:+.3f} ± {errors[4]:.3f}")
    console.print(f"residual           {100 * fitted.residual:.0f} %")


if __name__ == "__main__":
    main()
