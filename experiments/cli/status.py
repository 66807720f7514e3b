"""``moe-search status``: how a campaign stands."""

from moe_search.experiments.cli.console import out, print_json
from moe_search.experiments.cli.options import Json, SpecPath


def status(spec: SpecPath, *, json: Json = False) -> None:
    """Show trials by state, budget, the best so far, workers with their leases, and failures by class.

    [bold]Examples[/bold]

      moe-search status quickstart
      moe-search status quickstart --json
    """
    from moe_search.experiments.opening import open_ledger
    from moe_search.experiments.overview import overview
    from moe_search.experiments.spec.loading import load_spec
    from moe_search.experiments.standing import renderables
    from moe_search.experiments.workspace import Workspace
    from moe_search.search.suggest import ending

    campaign = load_spec(spec)
    ledger = open_ledger(campaign, Workspace(campaign))
    rows = ledger.rows()
    now = overview(ledger, rows, ending(ledger.problem, rows), is_thorough=True)
    if json:
        print_json({"name": campaign.name, "folder": str(campaign.folder), **now.as_json()})
        return
    for part in renderables(campaign, rows, now):
        out.print(part)
