"""The command and its verbs, in the order in which a person meets them."""

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from moe_search import __version__
from moe_search.experiments.cli.audit import audit
from moe_search.experiments.cli.bench import bench
from moe_search.experiments.cli.corpus import corpus
from moe_search.experiments.cli.count import count
from moe_search.experiments.cli.doctor import doctor
from moe_search.experiments.cli.export import export
from moe_search.experiments.cli.fit import fit
from moe_search.experiments.cli.import_ import import_
from moe_search.experiments.cli.init import init
from moe_search.experiments.cli.plan import plan
from moe_search.experiments.cli.recommend import recommend
from moe_search.experiments.cli.replay import replay
from moe_search.experiments.cli.report import report
from moe_search.experiments.cli.run import run
from moe_search.experiments.cli.status import status
from moe_search.experiments.cli.train import train
from moe_search.experiments.cli.ui import ui
from moe_search.experiments.cli.worker import worker

app = typer.Typer(
    name="moe-search",
    help="Decide which mixture-of-experts model to train, on which data, for how long.",
    epilog="First look: [bold]moe-search init mine[/bold], then [bold]moe-search run mine/campaign.yaml[/bold]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer hands it over
    if wanted:
        typer.echo(f"moe-search {__version__}")
        raise typer.Exit


@app.callback()
def moe_search(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Decide which mixture-of-experts model to train, on which data, for how long."""


_PANELS: Mapping[str, tuple[Callable[..., None], ...]] = {
    "A campaign, from one YAML file": (init, corpus, plan, run, worker, status, recommend, report, ui),
    "Useful alone": (count, train, import_, fit, audit, replay, export, doctor, bench),
}
for _panel, _verbs in _PANELS.items():
    for _verb in _verbs:
        app.command(_verb.__name__.rstrip("_"), rich_help_panel=_panel)(_verb)
