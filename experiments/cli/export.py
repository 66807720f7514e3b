"""``moe-search export``: a configuration in the format of a training or inference stack."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import out, print_json


def export(
    target: Annotated[str, typer.Argument(help="The format: hf (Hugging Face, Qwen3-MoE).", metavar="FORMAT")],
    model: Annotated[
        str,
        typer.Argument(help="What `moe-search count` accepts: a file, a folder or a published name.", metavar="CONFIG"),
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; created when missing.")],
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json to put beside the configuration.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the list of files as JSON.")] = False,
) -> None:
    """Write a configuration for Hugging Face; what the format cannot express is refused, with the list of it.

    [bold]Examples[/bold]

      moe-search export hf quickstart/recommended/architecture.json -o my-model
      moe-search export hf quickstart/recommendation.json -o my-model
    """
    from moe_search.experiments.architectures import find_architecture
    from moe_search.experiments.exporters import export as write
    from moe_search.experiments.exporters import get_exporter
    from moe_search.spaces.errors import InvalidInputError

    get_exporter(target)
    if tokenizer is not None and not tokenizer.is_file():
        raise InvalidInputError(f"no such file: {tokenizer}", where="--tokenizer")
    files = write(target, find_architecture(model), output, tokenizer=tokenizer)
    if json:
        print_json([str(path) for path in files])
    else:
        out.print(*(str(path) for path in files), sep="\n", soft_wrap=True)
