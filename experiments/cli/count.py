"""``moe-search count``: what a model holds and what a token costs, exactly, without training anything."""

from typing import Annotated

import typer

from moe_search.experiments.cli.console import out, print_json


def count(
    model: Annotated[
        str | None,
        typer.Argument(help="A published model, a config.json, or a file of ours.", metavar="CONFIG|PRESET"),
    ] = None,
    *,
    list_models: Annotated[bool, typer.Option("--list", help="Name the published models and exit.")] = False,
    batch_tokens: Annotated[
        int, typer.Option(help="Tokens whose activations are alive at once, for the memory table.", min=1)
    ] = 8192,
    seq_len: Annotated[
        int | None, typer.Option(help="Tokens of a sequence, for attention; default: the model's own.", min=1)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Count parameters, FLOPs per token and memory, per layer.

    [bold]Examples[/bold]

      moe-search count Qwen3-30B-A3B
      moe-search count path/to/config.json --json
      moe-search count quickstart/recommended/architecture.json --seq-len 4096
    """
    from moe_search.experiments.architectures import find_architecture
    from moe_search.experiments.counting import as_json, tables
    from moe_search.spaces.errors import InvalidInputError
    from moe_search.spaces.presets import published_names

    if list_models:
        if json:
            print_json(list(published_names()))
        else:
            out.print("\n".join(published_names()))
        return
    if model is None:
        raise InvalidInputError("which model?", allowed="a name or a file", fix="moe-search count --list")
    architecture = find_architecture(model)
    if json:
        print_json(as_json(architecture, batch_tokens=batch_tokens, seq_len=seq_len))
    else:
        for table in tables(architecture, batch_tokens=batch_tokens, seq_len=seq_len):
            out.print(table)
