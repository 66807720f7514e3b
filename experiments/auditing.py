"""The published models on a fitted surface: what would they lose on the fit's text, and what would it have chosen?

A free check of a fit. If it finds that everybody else built their models far from its own optimum, it has found a
discovery or a mistake, and the column of extrapolation says which to suspect. Predictions are for models of the same
dimensions trained on the text that the fit is of; nobody's tokenizer, data or post-training enters.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from rich import box
from rich.table import Table

from moe_search.experiments import numbers
from moe_search.experiments.recommending import recommend_from_fit
from moe_search.experiments.spec.full_scale import FULL_SCALE
from moe_search.scaling.fitted import Fit
from moe_search.scaling.predictor import design_frame
from moe_search.scaling.recommend import Target
from moe_search.scaling.recommendation import Choice
from moe_search.spaces.accounting import count, flops_per_token
from moe_search.spaces.architecture import Architecture, DenseFFN
from moe_search.spaces.design import Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.presets import published, published_names, published_row
from moe_search.spaces.resolve import Resolved

TRILLION = 1e12
DESIGNS = 16
"""Designs with experts that the fit chooses from, within the granularities and activation ratios of its runs."""


@dataclass(frozen=True)
class Audited:
    """One published model beside what the fit would have chosen at its training FLOPs, within its parameters in all."""

    model: str
    n_active: int
    n_total: int
    tokens: float
    train_flops: float
    """Of the published tokens, with attention over ``FULL_SCALE.seq_len`` tokens."""
    loss: float
    low95: float
    high95: float
    chosen_n_active: int
    chosen_n_total: int
    chosen_tokens: float
    chosen_granularity: float
    chosen_activation_ratio: float
    excess: float
    """Relative loss beyond that of the choice: ``exp(difference of log losses) - 1``."""
    excess_low95: float
    excess_high95: float
    extrapolation: float | None
    """Training FLOPs over those of the largest run behind the fit; None where the table does not tell."""

    @property
    def is_told_apart(self) -> bool:
        """Whether the 95 % interval of the excess leaves out zero."""
        return self.excess_low95 > 0 or self.excess_high95 < 0


def auditable() -> list[str]:
    """Return the published models whose number of training tokens is published, too."""
    return [name for name in published_names() if published_row(name).tokens_t is not None]


def audit(fit: Fit, models: Sequence[str], *, log: Callable[[str], None]) -> list[Audited]:
    """Place published models on the surface of a fitted law, the cheapest first.

    Args:
        fit: a law with resamples, which intervals need.
        models: names; none: all with published tokens.
        log: told what is being done.

    Raises:
        InvalidInputError: an unknown model, one without published tokens, or a fit that cannot be asked.
    """
    names = [published_row(name).model for name in models] or auditable()
    for name in names:
        if published_row(name).tokens_t is None:
            raise InvalidInputError(
                f"how many tokens {name} was trained on has not been published",
                where="--model",
                allowed=", ".join(auditable()),
            )
    if len(fit.draws) < 2:
        raise InvalidInputError("the fit has no resamples, and so no intervals", fix="moe-search fit --resamples 1000")
    found = []
    for name in names:
        log(f"auditing {name}")
        found.append(_audited(fit, name))
    return sorted(found, key=lambda one: one.train_flops)


def _audited(fit: Fit, name: str) -> Audited:
    row, architecture = published_row(name), published(name)
    assert row.tokens_t is not None
    frame = _dimensions(architecture, row.tokens_t * TRILLION)
    flops, total = frame["train_flops"].item(), count(architecture).n_total
    chosen = recommend_from_fit(fit, Target(train_flops=flops, max_total=total), spread=DESIGNS).best
    both = pl.concat([frame, _as_row(chosen)], how="diagonal_relaxed")
    mean, draws, _ = fit.log_draws(both)
    low, high = np.quantile(draws[0], [0.025, 0.975])
    excess = np.quantile(draws[0] - draws[1], [0.025, 0.975])
    largest = fit.observed.ranges.get("train_flops")
    return Audited(
        model=name,
        n_active=frame["n_active"].item(),
        n_total=total,
        tokens=row.tokens_t * TRILLION,
        train_flops=flops,
        loss=float(np.exp(mean[0])),
        low95=float(np.exp(low)),
        high95=float(np.exp(high)),
        chosen_n_active=chosen.realised.n_active,
        chosen_n_total=chosen.realised.n_total,
        chosen_tokens=float(chosen.tokens),
        chosen_granularity=chosen.realised.granularity,
        chosen_activation_ratio=chosen.realised.activation_ratio,
        excess=float(np.expm1(mean[0] - mean[1])),
        excess_low95=float(np.expm1(excess[0])),
        excess_high95=float(np.expm1(excess[1])),
        extrapolation=flops / largest[1] if largest else None,
    )


def _dimensions(architecture: Architecture, tokens: float) -> pl.DataFrame:
    """Return a published model as a row of a runs table, as far as laws read one."""
    sizes, layers = count(architecture), architecture.moe_layers
    reference = FULL_SCALE.ffn_ratio * architecture.d_model
    moe = layers[-1] if layers else None
    dense = architecture.layers[-1].ffn
    width = moe.d_expert if moe else dense.d_ff if isinstance(dense, DenseFFN) else reference
    experts = float(np.mean([layer.n_experts for layer in layers])) if layers else 0.0
    shared = moe.n_shared_experts if moe else 0
    active = moe.top_k + shared if moe else 1
    ratio = active / (experts + shared) if moe else 1.0
    return pl.DataFrame(
        {
            "d_model": architecture.d_model,
            "n_layers": len(architecture.layers),
            "vocab_size": architecture.vocab_size,
            "seq_len": FULL_SCALE.seq_len,
            "n_moe_layers": len(layers),
            "n_experts": experts,
            "top_k": moe.top_k if moe else 1,
            "d_expert": width,
            "n_shared_experts": shared,
            "n_active": sizes.n_active,
            "n_total": sizes.n_total,
            "n_active_non_embedding": sizes.n_active_non_embedding,
            "n_total_non_embedding": sizes.n_total_non_embedding,
            "granularity": reference / width,
            "activation_ratio": ratio,
            "expansion": 1 / ratio,
            "active_width": active * width / reference,
            "tokens": tokens,
            "train_flops": flops_per_token(architecture, FULL_SCALE.seq_len).train * tokens,
        }
    )


def _as_row(choice: Choice) -> pl.DataFrame:
    scale = Scale(n_active=choice.realised.n_active_non_embedding, tokens=choice.tokens)
    return design_frame(
        [Resolved(design=choice.design, scale=scale, architecture=choice.architecture, realised=choice.realised)]
    )


def as_json(audited: Sequence[Audited]) -> list[dict[str, Any]]:
    """Return what ``moe-search audit --json`` prints."""
    return [asdict(one) for one in audited]


def audit_table(audited: Sequence[Audited], unit: str) -> Table:
    """Return the models beside what the fit would have chosen."""
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="the fit's own choice has the same training FLOPs and no more parameters in all; excess: loss beyond "
        "that of the choice, with its 95 % interval, * where that leaves out zero",
        caption_justify="left",
    )
    table.add_column("model", no_wrap=True)
    short = unit.replace(" per ", "/")
    for heading in ("active/total", "tokens", short, "its choice", "its tokens", "its G", "excess"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in audited:
        mark = " *" if one.is_told_apart else "  "
        table.add_row(
            one.model,
            f"{numbers.count(one.n_active)}/{numbers.count(one.n_total)}",
            numbers.count(one.tokens),
            f"{one.loss:.3f}",
            f"{numbers.count(one.chosen_n_active)}/{numbers.count(one.chosen_n_total)}",
            numbers.count(one.chosen_tokens),
            f"{one.chosen_granularity:.2g}",
            f"{one.excess:+.1%} ({one.excess_low95:+.1%} to {one.excess_high95:+.1%}){mark}",
        )
    return table


def caveat(audited: Sequence[Audited], fit: Fit) -> str | None:
    """Return how far the models are from the runs; None where the runs do not tell."""
    far = [one.extrapolation for one in audited if one.extrapolation is not None]
    if not far:
        return None
    return (
        f"these models took {min(far):.2g} to {max(far):.2g} times the FLOPs of the largest run behind the law "
        f"{fit.law.name}: read an excess as a question to the fit before one to the model"
    )


def verdict(audited: Sequence[Audited]) -> str:
    """Return how many models the fit would have built otherwise."""
    apart = sum(one.is_told_apart for one in audited)
    return f"{apart} of {len(audited)} can be told from the fit's own choice at 95 %"
