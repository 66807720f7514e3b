"""``moe-search corpus``: the text that proxies are trained on."""

from typing import Annotated, Literal

import typer

from moe_search.experiments.cli.console import note, out, print_json
from moe_search.experiments.cli.options import Json, Settings, SpecPath


def corpus(
    action: Annotated[
        Literal["prepare", "show"],
        typer.Argument(help="prepare: fetch, tokenise, and try again for what is missing; show: what there is."),
    ],
    spec: SpecPath,
    *,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Prepare a campaign's text, or show its domains, bytes, licences, splits, tokenizer and hashes.

    It is prepared once and cached by content (MOE_SEARCH_CACHE, default ~/.cache/moe-search); `run` does it by itself.

    [bold]Examples[/bold]

      moe-search corpus prepare campaign.yaml
      moe-search corpus show campaign.yaml --json
    """
    from moe_search.experiments.spec.checks import check_text
    from moe_search.experiments.spec.loading import load_spec
    from moe_search.experiments.standing import corpus_renderables
    from moe_search.proxies.corpus import default_cache, prepare_corpus

    campaign = load_spec(spec, settings or ())
    check_text(campaign)
    text = prepare_corpus(campaign.corpus, default_cache(), log=note, retry_missing=action == "prepare")
    if json:
        print_json({"root": str(text.root), **text.manifest.model_dump(mode="json")})
        return
    for part in corpus_renderables(text):
        out.print(part)
