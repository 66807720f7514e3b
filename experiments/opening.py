"""From a specification to the things it names: the corpus, the search problem, the ledger."""

import hashlib
from collections.abc import Callable

from moe_search.experiments.pricing import own_price
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.environment import looked_up
from moe_search.experiments.workspace import Workspace, deciding
from moe_search.proxies.corpus import Corpus, default_cache, prepare_corpus
from moe_search.proxies.training.provenance import code_version
from moe_search.search.ledger import Ledger
from moe_search.search.problem import Problem
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.space import SearchSpace


def open_campaign_corpus(spec: Spec, log: Callable[[str], None]) -> Corpus:
    """Prepare the campaign's corpus, or open it if that has been done.

    Raises:
        InvalidInputError: a file of the user's cannot be read, or the mixture's domains are not there.
        ResourceError: too few sources of the default corpus can be had, or the disk is full.
    """
    return prepare_corpus(spec.corpus, default_cache(), log=log)


def search_problem(spec: Spec, corpus: Corpus) -> Problem:
    """Return what the search is about, on the domains that the corpus really has."""
    space = on_domains(spec.space, corpus.domains)
    return planned_problem(spec).replace(
        space=space,
        unique_tokens=tuple(float(len(corpus.train_tokens(domain))) for domain in space.domains),
        context=campaign_context(spec, corpus),
        data_hash=corpus.data_hash,
        code_version=code_version(),
        price=own_price(spec, default_cache()),
    )


def check_unchanged(spec: Spec, problem: Problem, corpus: Corpus, warn: Callable[[str], None]) -> None:
    """Make sure that a started campaign goes on with the text and the lag it was started with.

    Args:
        spec: as it is now.
        problem: as the ledger has it.
        corpus: as it is now.
        warn: told that the training code is another one, which is no reason to stop.

    Raises:
        InvalidInputError: the text has changed since, so that new trials could not be compared with the old ones, or
            the number of trials in flight, on which proposals depend.
    """
    if problem.lag != spec.workers.in_flight - 1:
        raise InvalidInputError(
            f"the campaign was started with {problem.lag + 1} trials in flight, not {spec.workers.in_flight}",
            where="workers.in_flight",
            fix=f"in_flight = {problem.lag + 1}, or choose a new folder",
        )
    if problem.data_hash and problem.data_hash != corpus.data_hash:
        raise InvalidInputError(
            f"the text has changed since the campaign was started (data hash {problem.data_hash} then, "
            f"{corpus.data_hash} now); its trials would not be comparable",
            where="corpus",
            fix="restore the text, or choose a new folder",
        )
    if problem.code_version and problem.code_version != code_version():
        warn(f"the campaign was started with training code {problem.code_version}; this is {code_version()}")


def campaign_context(spec: Spec, corpus: Corpus) -> str:
    """Return the fingerprint of recipe, data and code, which is part of the key of every run."""
    context = f"{spec.training.fingerprint()}/{corpus.data_hash}/{code_version()}"
    return hashlib.blake2b(context.encode(), digest_size=8).hexdigest()


def planned_problem(spec: Spec) -> Problem:
    """Return what the search will be about, before any text is there."""
    return Problem(
        space=spec.space,
        ladder=spec.ladder,
        rules=spec.shape,
        budget_flops=spec.budget.train_flops,
        decay_share=spec.training.decay_share,
        policy=spec.search,
        seed=spec.seed,
        lag=spec.workers.in_flight - 1,
    )


def on_domains(space: SearchSpace, domains: tuple[str, ...]) -> SearchSpace:
    """Return ``space`` without the domains that could not be had; fixed weights are scaled up to sum to one.

    Raises:
        InvalidInputError: none of the space's domains is there.
    """
    kept = tuple(domain for domain in space.mixture.domains if domain in domains)
    if kept == tuple(space.mixture.domains):
        return space
    if not kept:
        raise InvalidInputError(
            f"the corpus has none of the domains {', '.join(space.domains)}",
            where="space.mixture",
            allowed=", ".join(domains),
        )
    if isinstance(space.mixture, Mixture):
        weights = {domain: weight for domain, weight in space.mixture.items() if domain in kept}
        return space.replace(mixture=Mixture.normalised(weights))
    cap = max(space.mixture.cap, 1 / len(kept))
    return space.replace(mixture=space.mixture.replace(domains=kept, cap=cap))


def open_ledger(spec: Spec, workspace: Workspace, problem: Problem | None = None) -> Ledger:
    """Open the campaign's trial table.

    Args:
        spec: the campaign.
        workspace: its folder.
        problem: creates the table where there is none; None: it must exist.

    Raises:
        InvalidInputError: the table belongs to another specification, or there is none.
    """
    storage = workspace.journal if spec.storage is None else looked_up(spec.storage, where="storage")
    if problem is None and spec.storage is None and not workspace.journal.exists():
        raise InvalidInputError(
            f"the campaign {spec.name!r} has not been started in {workspace.folder}",
            where="folder",
            fix="moe-search run starts it",
        )
    beside = {"storage", "workers"}  # the ledger is the storage, and the problem in it has the trials in flight
    agreed = {name: value for name, value in deciding(spec).items() if name not in beside}
    return Ledger(storage, name=spec.name, problem=problem, spec=agreed if problem else None)
