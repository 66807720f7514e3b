"""``moe-search audit``: the published models on a fitted surface."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import note, out, print_json, warn
from moe_search.experiments.cli.options import Json


def audit(
    fit: Annotated[Path, typer.Argument(help="A fit file of `fit -o`.", metavar="FIT")],
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A published model (`count --list`); repeatable. Default: all with published tokens."),
    ] = None,
    json: Json = False,
) -> None:
    """Place published models on the fitted surface: what they would lose, and what the fit would have chosen.

    The choice has the model's training FLOPs and no more parameters in all. Nothing is downloaded: dimensions and
    tokens are published, and the loss is that of models so built on the text that the fit is of.

    [bold]Examples[/bold]

      moe-search audit fit.json
      moe-search audit fit.json --model DeepSeek-V3 --model Qwen3-30B-A3B --json
    """
    from moe_search.experiments.auditing import as_json, audit_table, caveat, verdict
    from moe_search.experiments.auditing import audit as audit_models
    from moe_search.experiments.wording import unit_of
    from moe_search.scaling.fitted import Fit

    fitted = Fit.from_file(fit)
    audited = audit_models(fitted, model or (), log=note)
    if json:
        print_json(as_json(audited))
        return
    out.print(audit_table(audited, unit_of(fitted.objective_column)))
    out.print(verdict(audited), soft_wrap=True)
    if sentence := caveat(audited, fitted):
        warn(sentence)
