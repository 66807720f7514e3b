"""Tables for a person: a campaign's plan, its state, its text."""

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
from moe_search.search.trial import Row
from moe_search.spaces.run import Run

RECENT = 10


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
    for running in status.running:
        loss = f", {running.loss:.2f} nats" if running.loss is not None else ""
        state = f"{share(running):.0%}{loss}, by {running.owner}" if running.is_held else "interrupted, to be resumed"
        facts.add_row("running", f"trial {running.trial} at {scale_words(running.scale)}: {state}")
    yield facts
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
