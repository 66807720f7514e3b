"""What one worker process does: open the campaign's text and trial table, and train until nothing is left."""

from collections.abc import Callable

import torch

from moe_search.experiments.evaluate import make_evaluate
from moe_search.experiments.narrating import narrated
from moe_search.experiments.opening import check_unchanged, open_campaign_corpus, open_ledger
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.workspace import Workspace
from moe_search.kernels.native.memory import keep_freed_memory
from moe_search.search.outbox import Outbox
from moe_search.search.patience import Patience
from moe_search.search.worker import work


def work_on(spec: Spec, *, owner: str, stop: Callable[[], bool], log: Callable[[str], None]) -> int:
    """Train trials of a started campaign and return how many.

    A storage that does not answer is waited for, also at the start: a worker may be up before its database. Results
    that the storage does not take meanwhile wait in the campaign's folder, for this worker or whichever comes next.

    Args:
        spec: the campaign.
        owner: name of this worker in leases.
        stop: asked between trials and during them.
        log: told what is being done.
    """
    torch.set_num_threads(spec.workers.threads)
    keep_freed_memory()
    workspace = Workspace(spec)
    ledger = Patience(stop=stop, say=log)(open_ledger, spec, workspace)
    corpus = open_campaign_corpus(spec, log)
    problem = ledger.problem
    check_unchanged(spec, problem, corpus, log)
    evaluate = narrated(make_evaluate(spec, corpus, workspace.checkpoints, context=problem.context))
    return work(
        ledger,
        problem,
        evaluate,
        owner=owner,
        stop=stop,
        report_seconds=ledger.live_seconds,
        outbox=Outbox(workspace.folder / "outbox"),
    )
