"""Simulated worlds of runs: a law of the library as the truth, realistic noise, and larger runs to be predicted.

    log loss = log law(truth, run) + curvature (log10 C - middle)² + design effect + seed noise

with the truth drawn around published coefficients where there are any, else around the prior's centres. A ladder of
such runs is fitted like a table of real ones, and the losses of new runs, inside the ladder and beyond it, say how
often an interval holds what it should. With ``curvature`` the truth is no law of the library.

Every law of the library has worlds but ``step_law_sweeps``: it says nothing of a size that it was not fitted to, so
that there is nothing to predict; ``step_law`` has the same valley and levels that a law explains.

These worlds judge fits and intervals; those that judge the search are ``moe_search.search.worlds``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.law import Array, Law, Variables
from moe_search.scaling.laws import get_law
from moe_search.scaling.laws.step_law import PUBLISHED, best_rate_and_batch
from moe_search.spaces.errors import InvalidInputError

DOMAINS = ("code", "prose", "web")
SIZES = np.geomspace(2e7, 6e8, 6)
"""Active parameters without embeddings."""
FEWEST_TOKENS, MOST_TOKENS = 5.0, 100.0
"""A parameter."""
MIDDLE = float(np.log10(6 * SIZES[0] * SIZES[-1]) + 0.5 * np.log10(FEWEST_TOKENS * MOST_TOKENS))
"""log10 of the FLOPs in the middle of the ladder."""
VOCABULARY = 32_000
DEPTH = 64
"""Width over layers: with d_model = 64 n_layers, N = 12 d_model² n_layers gives the width."""
RATE_SPREAD, BATCH_SPREAD = 0.5, 0.5
"""Of the logarithms of learning rate and batch around the published rule: what a team tries to tune them."""
UNREPEATED = 0.5
"""Share of the designs whose tokens are all different."""
DRAWN = 0.25
"""Of the prior's spread: how far a truth lies from its centre."""
TERM_SPREAD = 0.2
"""Of the logarithm of a term's mean size."""
PLAUSIBLE_LOSS = (0.2, 15.0)
LARGEST_FALL = 5.0
"""Ratio of the largest and the smallest loss of a plausible ladder, at most."""
ATTEMPTS = 400


@dataclass(frozen=True, kw_only=True)
class World:
    """One truth. Tables of it are drawn by a seed."""

    law: Law
    truth: Mapping[str, float]
    """Natural coefficients."""
    designs: pl.DataFrame
    """What a team varies beside size and tokens: one row a design, with its effect on log loss."""
    seed_sd: float
    """Standard deviation of log loss between seeds."""
    curvature: float = 0.0
    """Log loss a squared decade of compute from the middle of the ladder."""

    @property
    def column(self) -> str:
        """``loss`` or ``bpb``: the unit of the truth."""
        return "bpb" if any(parameter.unit == "bits/byte" for parameter in self.law.parameters) else "loss"

    def ladder(self, runs: int, seed: int) -> pl.DataFrame:
        """Return a table of ``runs`` finished runs: the designs at sizes and tokens of the ladder."""
        rng = np.random.default_rng((seed, 1))
        return self._run(ladder_columns(self.designs, runs, rng), rng)

    def beyond(self, runs: int, seed: int, *, train_flops: float) -> pl.DataFrame:
        """Return ``runs`` runs of ``train_flops`` = 6 N D each: the designs at the ladder's tokens a parameter."""
        rng = np.random.default_rng((seed, 2))
        ratio = np.exp(rng.uniform(np.log(FEWEST_TOKENS), np.log(MOST_TOKENS), runs))
        sizes = np.sqrt(train_flops / (6 * ratio))
        return self._run(_columns(self.designs, sizes, sizes * ratio, rng), rng)

    def _run(self, frame: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
        log_loss = self.law.log_loss(self.law.internal(self.truth), self.law.variables(frame))[0]
        decades = np.log10(frame["train_flops"].to_numpy()) - MIDDLE
        noise = self.seed_sd * rng.normal(size=frame.height) + frame["effect"].to_numpy()
        loss = pl.Series(self.column, np.exp(log_loss + self.curvature * decades**2 + noise))
        return frame.drop("effect").with_columns(loss)


def draw_world(
    name: str,
    *,
    seed: int,
    seed_sd: float | None = None,
    design_sd: float = 0.0,
    curvature: float = 0.0,
    designs: int = 16,
) -> World:
    """Draw a world with the law called ``name`` as its truth.

    Args:
        name: of a law of the library.
        seed: of the truth and the designs.
        seed_sd: standard deviation of log loss between seeds; None: drawn between 0.002 and 0.01.
        design_sd: standard deviation of log loss between designs that no law sees, the same at all scales.
        curvature: log loss a squared decade of compute; its sign is drawn.
        designs: how many designs are tried.

    Raises:
        InvalidInputError: the law predicts no other sizes, needs a column that these worlds lack, or has no plausible
            truth in them.
    """
    rng = np.random.default_rng((seed, 0))
    law = get_law(name).for_domains(DOMAINS)
    tried = _designs(designs, rng).with_columns(effect=pl.Series(design_sd * rng.normal(size=designs)))
    frame = ladder_columns(tried, 300, rng)
    if law.groups(frame):
        raise InvalidInputError(
            f"the law {name} says nothing of sizes that it was not fitted to, so that it has no world"
        )
    return World(
        law=law,
        truth=MappingProxyType(_truth(law, frame, rng)),
        designs=tried,
        seed_sd=float(rng.uniform(0.002, 0.01)) if seed_sd is None else seed_sd,
        curvature=curvature * float(rng.choice([-1.0, 1.0])),
    )


def ladder_columns(designs: pl.DataFrame, runs: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return ``runs`` rows without losses: random designs at the ladder's sizes and tokens a parameter."""
    sizes = rng.choice(SIZES, runs) * np.exp(0.03 * rng.normal(size=runs))
    return _columns(designs, sizes, sizes * np.exp(rng.uniform(np.log(FEWEST_TOKENS), np.log(MOST_TOKENS), runs)), rng)


def _designs(count: int, rng: np.random.Generator) -> pl.DataFrame:
    """Designs as a team tries them: a quarter dense, the others with experts; each with its mixture and its data.

    ``dense_tokens`` matter to the law of upcycling alone.
    """
    dense = np.arange(count) % 4 == 0
    weights = rng.dirichlet(2 * np.ones(len(DOMAINS)), count)
    return pl.DataFrame(
        {
            "design_key": [f"design-{i}" for i in range(count)],
            "expansion": np.where(dense, 1.0, 2.0 ** rng.integers(1, 7, count)),
            "granularity": np.where(dense, 1.0, 2.0 ** rng.integers(0, 5, count)),
            "epochs": np.where(rng.random(count) < UNREPEATED, 1.0, 2.0 ** rng.uniform(0, 4, count)),
            "dense_tokens": 10 ** rng.uniform(8.5, 10.5, count),
            **{f"weight/{domain}": weights[:, i] for i, domain in enumerate(DOMAINS)},
        }
    )


def _columns(designs: pl.DataFrame, sizes: Array, tokens: Array, rng: np.random.Generator) -> pl.DataFrame:
    """The canonical columns of runs at sizes (rows,) and tokens (rows,), a random design each."""
    frame: pl.DataFrame = designs[rng.integers(0, designs.height, len(sizes)).tolist()]
    expansion = frame["expansion"].to_numpy()
    width = (DEPTH * sizes / 12) ** (1 / 3)
    embedding = 2 * VOCABULARY * width
    rate, batch = _tried(sizes, tokens, rng.spawn(1)[0])
    total = sizes * (1 / 3 + 2 / 3 * expansion)  # the FFN holds two thirds of a layer's parameters
    return frame.with_columns(
        n_active_non_embedding=pl.Series(sizes),
        n_total_non_embedding=pl.Series(total),
        n_active=pl.Series(sizes + embedding),
        n_total=pl.Series(total + embedding),
        activation_ratio=1 / pl.col("expansion"),
        tokens=pl.Series(tokens),
        train_flops=pl.Series(6 * sizes * tokens),
        learning_rate=pl.Series(rate),
        batch_tokens=pl.Series(batch),
        domain_weight=pl.col(f"weight/{DOMAINS[0]}"),
    )


def _tried(sizes: Array, tokens: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Learning rates and batches (rows,) in tokens, around the rule of Li et al. 2025."""
    rule = np.array([best_rate_and_batch(PUBLISHED["li2025"], n, d) for n, d in zip(sizes, tokens, strict=True)])
    spread = np.array([RATE_SPREAD, BATCH_SPREAD])
    rate, batch = (rule * np.exp(spread * rng.normal(size=rule.shape))).T
    return rate, batch


def _truth(law: Law, frame: pl.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """Natural coefficients near a published set (or the centres) under which a ladder looks like one."""
    x = law.variables(frame)
    complete = [values for values in law.published.values() if set(values) == set(law.names)]
    partial = dict(rng.choice(np.array(list(law.published.values())))) if law.published and not complete else {}
    centers = {p.name: p.center for p in law.parameters} | partial
    middle = law.internal(complete[rng.integers(len(complete))] if complete else centers)
    lower, upper = (
        np.array([float(p.internal(getattr(p, end))) for p in law.parameters]) for end in ("lower", "upper")
    )
    spread = DRAWN * np.array([p.spread for p in law.parameters])
    for attempt in range(ATTEMPTS):
        closer = 0.5 ** (attempt // 100)
        theta = np.clip(middle + closer * spread * rng.normal(size=middle.shape), lower, upper)
        scatter = closer * TERM_SPREAD * rng.normal(size=theta.shape)
        theta = np.clip(_same_sizes(law, x, middle, theta, scatter), lower, upper)
        if _plausible(law, x, theta, frame):
            return {name: float(value[0]) for name, value in law.natural(theta).items()}
    raise InvalidInputError(f"no plausible truth of the law {law.name} was found in {ATTEMPTS} draws")


def _same_sizes(law: Law, x: Variables, middle: Array, theta: Array, scatter: Array) -> Array:
    """Return theta (1, parameters) with amplitudes such that each term keeps its mean size on these runs, scattered."""
    shifted = theta.copy()
    before, after = (law.terms([at[:, j : j + 1] for j in range(at.shape[1])], x) for at in (middle, theta))
    for old, new in zip(before, after, strict=True):
        scales = [j for j, slope in new.gradient.items() if isinstance(slope, float) and slope == 1.0]
        if scales:
            change = float(np.mean(old.value) - np.mean(new.value))
            shifted[0, scales[0]] += change + scatter[0, scales[0]]
    return shifted


def _plausible(law: Law, x: Variables, theta: Array, frame: pl.DataFrame) -> bool:
    """Whether losses are of a usual size and do not rise with compute."""
    loss = np.exp(law.log_loss(theta, x)[0])
    if not np.isfinite(loss).all():
        return False
    order = np.argsort(frame["train_flops"].to_numpy())
    tenth = len(order) // 10
    falls = loss[order[-tenth:]].mean() <= loss[order[:tenth]].mean() * 1.001
    low, high = loss.min(), loss.max()
    return bool(falls and low > PLAUSIBLE_LOSS[0] and high < PLAUSIBLE_LOSS[1] and high / low < LARGEST_FALL)
