"""``moe-search init``: a fully commented campaign.yaml."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import talk


def init(
    folder: Annotated[
        Path, typer.Argument(help="Where campaign.yaml goes; created when missing.", metavar="[DIR]")
    ] = Path(),
    *,
    preset: Annotated[str, typer.Option(help="quickstart, cpu, h100 or cluster.")] = "quickstart",
    force: Annotated[bool, typer.Option("--force", help="Replace a campaign.yaml that is there.")] = False,
) -> None:
    """Write a fully commented campaign.yaml to start from.

    [bold]Examples[/bold]

      moe-search init my-campaign
      moe-search init my-campaign --preset h100
    """
    from moe_search.experiments.presets.catalogue import preset_text
    from moe_search.spaces.errors import InvalidInputError

    text = preset_text(preset)
    path = folder / "campaign.yaml"
    if path.exists() and not force:
        raise InvalidInputError(f"{path} exists", fix="another folder, or --force to replace it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InvalidInputError(f"{folder} cannot be a folder: a file is in its way") from None
    # A campaign's results go beside its file unless the file says otherwise.
    name = folder.resolve().name
    lines = [f"name: {name}" if line.startswith("name:") else line for line in text.splitlines()]
    lines = [f"folder: {folder / 'results'}" if line.startswith("folder:") else line for line in lines]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    talk.print(f"[good]wrote[/good] {path}\n", soft_wrap=True)
    talk.print(f"  what it would cost  [key]moe-search plan {path}[/key]", soft_wrap=True)
    talk.print(f"  do it               [key]moe-search run {path}[/key]", soft_wrap=True)
