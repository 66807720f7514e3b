from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from moe_search.experiments.auditing import as_json, audit, audit_table, auditable, caveat, verdict
from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.laws import get_law
from moe_search.spaces.accounting import count
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.presets import published, published_names, published_row

LAW = get_law("chinchilla")
TRUTH = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}


@pytest.fixture(scope="module")
def fitted() -> Fit:
    """Chinchilla's law, fitted to runs that follow it all but exactly."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"n_total": 10 ** rng.uniform(8, 10, 40), "tokens": 10 ** rng.uniform(9.5, 11.5, 40)})
    frame = frame.with_columns(train_flops=6 * pl.col("n_total") * pl.col("tokens"), n_active=pl.col("n_total"))
    loss = LAW.predict(TRUTH, LAW.variables(frame)) * np.exp(1e-4 * rng.normal(size=40))
    return fit(LAW, frame.with_columns(loss=pl.Series(loss)), resamples=50, starts=16)


def quiet(_: str) -> None:
    pass


def test_a_model_has_the_laws_loss_at_its_published_dimensions(fitted: Fit) -> None:
    (one,) = audit(fitted, ["deepseek-v3"], log=quiet)
    sizes, tokens = count(published("DeepSeek-V3")), 1e12 * (published_row("DeepSeek-V3").tokens_t or 0)
    assert (one.model, one.n_active, one.n_total, one.tokens) == ("DeepSeek-V3", sizes.n_active, sizes.n_total, tokens)
    row = pl.DataFrame({"n_active": [sizes.n_active], "n_total": [sizes.n_total], "tokens": [tokens]}).with_columns(
        pl.all().cast(pl.Float64)
    )
    assert one.loss == pytest.approx(LAW.predict(TRUTH, LAW.variables(row))[0], rel=0.01)
    assert one.low95 < one.loss < one.high95
    assert one.extrapolation is not None
    assert one.extrapolation > 10


def test_the_choice_keeps_to_the_models_budget_and_is_no_worse(fitted: Fit) -> None:
    audited = audit(fitted, ["Qwen3-30B-A3B", "DeepSeekMoE-16B", "Kimi-K2"], log=quiet)
    assert [one.train_flops for one in audited] == sorted(one.train_flops for one in audited)
    for one in audited:
        assert one.chosen_n_total <= one.n_total
        assert one.excess > -1e-4
        assert one.excess_low95 <= one.excess <= one.excess_high95
    qwen = next(one for one in audited if one.model == "Qwen3-30B-A3B")
    assert qwen.is_told_apart, "3 billion active parameters on 36 trillion tokens are far from Chinchilla's optimum"
    assert "Qwen3-30B-A3B" in said(audited)
    assert verdict(audited).endswith("can be told from the fit's own choice at 95 %")
    assert "times the FLOPs of the largest run behind the law chinchilla" in (caveat(audited, fitted) or "")
    assert [row["model"] for row in as_json(audited)] == [one.model for one in audited]
    assert caveat([replace(qwen, extrapolation=None)], fitted) is None


def said(audited: list[object]) -> str:
    console = Console(width=140)
    with console.capture() as captured:
        console.print(audit_table(audited, "nats per token"))  # type: ignore[arg-type]
    return captured.get()


def test_what_cannot_be_audited_is_refused_in_a_sentence(fitted: Fit) -> None:
    silent = next(name for name in published_names() if name not in auditable())
    with pytest.raises(InvalidInputError, match="has not been published; allowed: DBRX"):
        audit(fitted, [silent], log=quiet)
    with pytest.raises(InvalidInputError, match="no published model is called 'DeepSeek-V9'"):
        audit(fitted, ["DeepSeek-V9"], log=quiet)
    with pytest.raises(InvalidInputError, match="no resamples, and so no intervals"):
        audit(replace(fitted, draws=fitted.draws[:0]), ["DBRX"], log=quiet)
