"""What a report is made of. Everything is handed in, time and machine included, so that a report is reproducible."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from moe_search.scaling.approaches import Approaches
from moe_search.scaling.effects import Effect
from moe_search.scaling.fitted import Fit
from moe_search.scaling.holdout import Holdout
from moe_search.scaling.recommendation import Recommendation
from moe_search.scaling.report.runs_view import RunsView
from moe_search.scaling.report.search_summary import SearchSummary
from moe_search.scaling.rolling import Rolling
from moe_search.scaling.sensitivity import Sensitivity
from moe_search.scaling.speedup import Speedup
from moe_search.scaling.validation import Comparison
from moe_search.spaces.architecture import MoEFFN


@dataclass(frozen=True)
class BudgetSummary:
    """What a campaign may spend and has spent."""

    spent_flops: float
    """Training FLOPs of trials that are over."""
    total_flops: float
    trials: Mapping[str, int] = field(default_factory=dict)
    """Status to number of trials (``finished``, ``running``, ``waiting``, ``diverged``, ...)."""

    @property
    def share(self) -> float:
        """Spent over total."""
        return self.spent_flops / self.total_flops


@dataclass(frozen=True)
class Settings:
    """How the laws were fitted."""

    delta: float = 1e-3
    """Where the Huber loss turns linear, in log loss."""
    cluster: str | None = None
    """The resampling unit, a Polars SQL expression; None: one row."""
    flops: str = "as the table counts them"
    """What the training FLOPs are."""


@dataclass(frozen=True)
class ReportInput:
    """What :func:`~moe_search.scaling.report.render.render_report` shows; only title and frame are needed."""

    title: str
    frame: pl.DataFrame
    """The runs table (:mod:`moe_search.scaling.runs`), failures included; or somebody else's."""
    fits: Sequence[Fit] = ()
    """Laws fitted to all runs."""
    comparison: Comparison | None = None
    """The same laws fitted below the largest scale and judged on it."""
    refused: Sequence[tuple[str, str]] = ()
    """(law, why) where a law could not be fitted to all runs."""
    settings: Settings = Settings()
    sensitivity: Sensitivity | str = "The sensitivity of the answer was not computed."
    """Of the law to extrapolate with; or why there is none."""
    rolling: Rolling | str = "Held-out errors over several cuts of compute were not computed."
    """The laws fitted below several cuts of compute; or why there is none."""
    approaches: Approaches | str = "The best split of compute was not asked for."
    """The best size and tokens at fixed compute, asked three ways; or why there are none."""
    speedup: Speedup | str = "Routed models were not compared with dense ones at equal loss."
    """Of the best routed design over a dense one; or why there is none."""
    recommendation: Recommendation | None = None
    effects: Sequence[Effect] | None = None
    budget: BudgetSummary | None = None
    search: SearchSummary | None = None
    """Of a campaign."""
    spec_yaml: str | None = None
    """The resolved specification of the campaign."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What made the report, name to text: date, versions, commit, data hash, seed, device."""
    notes: Sequence[str] = ()
    """Sentences for the reader: what was assumed when the table was read, what a stop rule said."""

    @cached_property
    def view(self) -> RunsView:
        """The runs as the figures need them."""
        return RunsView(self.frame, self.laws[0].objective_column if self.laws else None)

    @cached_property
    def laws(self) -> tuple[Fit, ...]:
        """The fits, the law to extrapolate with first, then by held-out error."""
        fits = self.fits or (self.comparison.fits if self.comparison else ())
        order = [fit.law.name for fit, _ in self.held_out]
        if self.comparison:
            order.insert(0, self.comparison.chosen)
        return tuple(sorted(fits, key=lambda fit: order.index(fit.law.name) if fit.law.name in order else len(order)))

    @cached_property
    def held_out(self) -> tuple[tuple[Fit, Holdout], ...]:
        """The fits that were judged on runs they had not seen, least error first."""
        fits = self.comparison.fits if self.comparison else self.fits
        judged = [(fit, fit.holdout) for fit in fits if fit.holdout is not None]
        # a comparison has ranked them on the runs that all of them can predict
        return tuple(judged if self.comparison else sorted(judged, key=lambda pair: pair[1].mape))

    @property
    def recommended_mixture(self) -> dict[str, float]:
        """Domain to weight of the recommended mixture; empty without a recommendation."""
        return dict(self.recommendation.best.design.mixture.items()) if self.recommendation else {}

    @property
    def recommended_experts_per_layer(self) -> tuple[int, ...]:
        """Routed experts of each recommended layer, 0 where it is dense; empty without a recommendation."""
        if self.recommendation is None:
            return ()
        layers = self.recommendation.best.architecture.layers
        return tuple(layer.ffn.n_experts if isinstance(layer.ffn, MoEFFN) else 0 for layer in layers)
