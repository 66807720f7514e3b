"""``moe-search recommend``: a full-scale model for a budget, from a campaign or from a fit."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import note, out, print_json
from moe_search.experiments.cli.options import Json


def recommend(
    source: Annotated[
        Path, typer.Argument(help="A campaign (YAML file or folder), or a fit file of `fit -o`.", metavar="SPEC|FIT")
    ],
    *,
    train_flops: Annotated[
        float | None, typer.Option(help="Training FLOPs of the full-scale run; default: the campaign's target.", min=1)
    ] = None,
    memory_gb: Annotated[float | None, typer.Option(help="1e9 bytes to serve the model in bf16.", min=0)] = None,
    max_total: Annotated[float | None, typer.Option(help="Most parameters in all.", min=1)] = None,
    max_tokens: Annotated[float | None, typer.Option(help="Most training tokens.", min=1)] = None,
    inference_tokens: Annotated[
        float | None, typer.Option(help="Tokens processed after training, paid from the same budget.", min=0)
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(help="Judge the same runs by other weights of their domains. Repeatable.", metavar="DOMAIN=W"),
    ] = None,
    json: Json = False,
) -> None:
    """Recommend a full-scale model under compute, memory, inference and data limits, as a near-optimal set.

    [bold]Examples[/bold]

      moe-search recommend quickstart --train-flops 1e24 --memory-gb 640
      moe-search recommend quickstart --weight code=2 --weight prose=1
      moe-search recommend fit.json --train-flops 1e22 --json
    """
    from moe_search.experiments.advising import advise
    from moe_search.experiments.concluding import as_json
    from moe_search.experiments.objective import parse_weights
    from moe_search.experiments.presenting import recommendation_panel

    limits = {
        "train_flops": train_flops,
        "memory_gb": memory_gb,
        "max_total": int(max_total) if max_total else None,
        "max_tokens": int(max_tokens) if max_tokens else None,
        "inference_tokens": inference_tokens,
    }
    given = {name: value for name, value in limits.items() if value is not None}
    recommendation, predictor, unit = advise(source, given, weights=parse_weights(weight or ()), log=note)
    if json:
        print_json(as_json(recommendation, predictor, unit))
    else:
        out.print(recommendation_panel(recommendation, predictor, unit))
