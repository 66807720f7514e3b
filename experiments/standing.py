"""Tables for a person: a campaign's plan, its state, its text."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from moe_search.experiments import numbers
from moe_search.experiments.overview import Overview, share
from moe_search.experiments.planning import Plan
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.loading import shown
from moe_search.experiments.wording import counted, design_words, mixture_words, scale_words
from moe_search.proxies.corpus import Corpus
from moe_search.search.status import Status
from moe_search.search.trial import Row
from moe_search.spaces.run import Run

RECENT = 10
"""Ended trials that are shown."""
AT_ONCE = 20
"""Running trials, and lost workers, that are shown; ``--json`` has all."""


def plan_renderables(plan: Plan) -> Iterator[RenderableType]:
    """Yield the proxies of the initial design and what the whole campaign comes to."""
    table = Table(box=box.SIMPLE_HEAD, title="Initial design", title_justify="left", title_style="bold")
    table.add_column("", justify="right", style="bright_black")
    table.add_column("size x tokens", no_wrap=True)
    table.add_column("design", min_width=24)
    table.add_column("shape")
    for heading in ("total", "FLOPs", "time", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, proxy in enumerate(plan.initial):
        table.add_row(
            str(number),
            scale_words(proxy.proposal.scale),
            design_words(proxy.proposal.design) + _other_seed(proxy.proposal.seed, plan.seed),
            proxy.shape,
            numbers.count(proxy.n_total),
            numbers.flops(proxy.flops),
            numbers.duration(proxy.seconds),
            numbers.size(proxy.memory_bytes),
        )
    yield table
    initial = sum(proxy.flops for proxy in plan.initial)
    fewest, most = plan.remaining_proxies
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column()
    facts.add_row(
        "initial design",
        f"{counted(len(plan.initial), 'proxy', 'proxies')}, "
        f"{numbers.flops(initial)} FLOPs ({initial / plan.budget_flops:.0%})",
    )
    facts.add_row(
        "then the search",
        f"{numbers.flops(plan.remaining_flops)} FLOPs: {fewest} to {most} proxies, by size and horizon",
    )
    facts.add_row("budget", f"{numbers.flops(plan.budget_flops)} training FLOPs")
    facts.add_row(
        "time",
        f"about {numbers.duration(plan.seconds)} on {plan.workers} worker{'s' * (plan.workers > 1)} ({plan.speed})",
    )
    facts.add_row("memory", f"up to {numbers.size(plan.memory_bytes)} for tensors on all workers, beside the libraries")
    yield facts


def _other_seed(seed: int, usual: int) -> str:
    return f", seed {seed}" if seed != usual else ""


def renderables(spec: Spec, rows: Sequence[Row], now: Overview) -> Iterator[RenderableType]:
    """Yield how a campaign stands."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column()
    facts.add_row("campaign", f"[bold]{spec.name}[/bold] in {shown(spec.folder)}")
    status = now.status
    facts.add_row("trials", ", ".join(f"{count} {state}" for state, count in status.trials.items()) or "none yet")
    facts.add_row(
        "budget",
        f"{numbers.flops(status.budget.settled)} of {numbers.flops(status.budget.total)} FLOPs spent "
        f"({now.share:.0%} with what is running)",
    )
    facts.add_row(
        "",
        f"{numbers.flops(status.budget.reserved)} reserved for open trials, "
        f"{numbers.flops(max(status.budget.remaining, 0.0))} left to propose",
    )
    for name, words in _operations(status):
        facts.add_row(name, words)
    best = status.best
    if best is not None:
        where = f"trial {best.trial} at {scale_words(best.scale)}"
        facts.add_row("best", f"{best.bpb:.3f} bits/byte, {where}: {design_words(best.design)}")
        facts.add_row("", f"mixture {mixture_words(best.design.mixture)}")
    if status.ending is not None:
        facts.add_row("ended", status.ending.sentence)
    elif status.standing is not None:
        s = status.standing
        facts.add_row("decision", f"expected regret {s.regret:.2g} bits/byte, noise between seeds {s.noise:.2g}")
    yield facts
    if status.running:
        yield _running_table(status)
    ended = [row for row in rows if not row.is_open][-RECENT:]
    if not ended:
        return
    table = Table(box=box.SIMPLE_HEAD, title=f"Last {len(ended)} trials", title_justify="left", title_style="bold")
    table.add_column("", justify="right", style="bright_black")
    table.add_column("size x tokens", no_wrap=True)
    table.add_column("design")
    table.add_column("bits/byte", justify="right", no_wrap=True)
    table.add_column("predicted", justify="right", no_wrap=True)
    for row in ended:
        trial = row.trial
        bpb = row.runs[-1].bpb if row.runs else None
        table.add_row(
            str(trial.number),
            scale_words(trial.scale),
            design_words(trial.design),
            f"{bpb:.3f}" if bpb is not None else Text(row.runs[-1].status if row.runs else "failed", style="red"),
            f"{trial.predicted_mean:.3f} ± {trial.predicted_sd:.3f}" if trial.predicted_mean is not None else "",
        )
    yield table


def _operations(status: Status) -> Iterator[tuple[str, Text]]:
    """Yield who works, what waits and what went wrong."""
    counts = Counter(worker.state for worker in status.workers)
    if counts:
        words = Text(", ".join(f"{counts[state]} {state}" for state in ("working", "idle", "ended", "lost")))
        yield "workers", words
    lost = sorted((worker for worker in status.workers if worker.state == "lost"), key=lambda worker: -worker.seen)
    for worker in lost[:AT_ONCE]:
        at = f" at trial {worker.trial}" if worker.trial is not None else ""
        yield "", Text(f"{worker.owner} was lost{at}, last seen {_ago(worker.seen)}", style="yellow")
    if status.failures:
        happened = ", ".join(f"{count} {name}" for name, count in status.failures.items() if count)
        yield "failures", Text(happened or "none")


def _running_table(status: Status) -> Table:
    """Return the trials in progress with the age of their leases, those without one first; 80 columns."""
    shown = sorted(status.running, key=lambda running: (running.is_held, running.trial))[:AT_ONCE]
    title = "Running" if len(shown) == len(status.running) else f"Running ({len(shown)} of {len(status.running)})"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for heading in ("", "size x tokens", "done", "nats"):
        table.add_column(heading, justify="left" if heading == "size x tokens" else "right", no_wrap=True)
    table.add_column("worker", overflow="fold")
    table.add_column("renewed", no_wrap=True)
    for running in shown:
        table.add_row(
            str(running.trial),
            scale_words(running.scale),
            f"{share(running):.0%}",
            f"{running.loss:.2f}" if running.loss is not None else "",
            Text(running.owner) if running.is_held else Text("none: to be resumed", style="yellow"),
            _ago(running.renewed) if running.renewed is not None else "",
        )
    return table


def _ago(moment: float) -> str:
    return f"{numbers.duration(max(time.time() - moment, 0.0))} ago"


def runs_table(runs: Sequence[Run]) -> Table:
    """Return what one trunk reached at each of its horizons."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in (
        "tokens",
        "status",
        "bits/byte",
        "nats/token",
        "unigram",
        "load imbalance",
        "learning rate",
        "tokens/s",
    ):
        table.add_column(heading, justify="left" if heading == "status" else "right")
    for run in runs:
        numbers_of = (run.bpb, run.loss, run.unigram_loss, run.load_imbalance)
        table.add_row(
            numbers.count(run.tokens),
            run.status,
            *("" if value is None else f"{value:.3f}" for value in numbers_of),
            f"{run.learning_rate:.2e}",
            "" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
        )
    return table


def corpus_renderables(corpus: Corpus) -> Iterator[RenderableType]:
    """Yield the domains of a prepared corpus and what identifies it."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("domain", no_wrap=True)
    for heading in (
        "documents",
        "train",
        "val",
        "test",
        "tokens",
        "bytes/token",
        "gzip bits/byte",
        "unigram bits/byte",
    ):
        table.add_column(heading, justify="right")
    table.add_column("licence")
    for row in corpus.manifest.domains:
        table.add_row(
            row.domain,
            f"{row.documents.total:,}",
            *(numbers.size(getattr(row.n_bytes, split)) for split in ("train", "val", "test")),
            numbers.count(row.tokens.total),
            f"{row.bytes_per_token:.2f}",
            f"{row.gzip_bits_per_byte:.2f}",
            f"{corpus.unigram_bpb(row.domain):.2f}",
            row.licence,
        )
    yield table
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column()
    manifest = corpus.manifest
    facts.add_row(
        "tokenizer", f"{manifest.config.tokenizer}, {manifest.vocab_size} tokens, hash {corpus.tokenizer_hash}"
    )
    facts.add_row("data", f"hash {corpus.data_hash}")
    facts.add_row("folder", f"{corpus.root} (sources and licences in NOTICE)")
    for gone in manifest.missing:
        facts.add_row("missing", f"[yellow]{gone.domain}[/yellow]: {gone.reason}")
    yield facts
