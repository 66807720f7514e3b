"""One proxy, outside a campaign: a design at a scale on a corpus, with the recipe of a campaign."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from moe_search.experiments.architectures import Single
from moe_search.experiments.spec.document import Document
from moe_search.experiments.spec.loading import validated
from moe_search.experiments.workspace import check_writable
from moe_search.proxies.corpus import default_cache, prepare_corpus
from moe_search.proxies.training.run import Progress as TrainingProgress
from moe_search.proxies.training.run import train_proxy
from moe_search.scaling.runs import runs_to_frame, write_runs
from moe_search.spaces.resolve import resolve
from moe_search.spaces.run import Run


def train_single(
    path: Path,
    settings: Sequence[str],
    *,
    horizons: Sequence[int] | None,
    seed: int,
    folder: Path | None,
    console: Console | None,
    log: Callable[[str], None],
) -> list[Run]:
    """Train the proxy of a file and return one run a horizon, shortest first.

    Args:
        path: YAML or JSON.
        settings: dotted overrides.
        horizons: training tokens; None: the scale's.
        seed: of data order and initial weights.
        folder: for checkpoints and the runs table; None: nothing is kept.
        console: where progress is shown; None: nowhere.
        log: told what is being done.
    """
    single = validated(Single, Document.read(path), settings)
    if folder is not None:
        check_writable(folder)
    text = prepare_corpus(single.corpus, default_cache(), log=log)
    rules = single.rules.replace(vocab_size=text.vocab_size)
    wanted = tuple(sorted(set(horizons))) if horizons else (single.scale.tokens,)
    scale = single.scale.replace(tokens=wanted[-1])
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%  {task.fields[loss]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=console is None or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("training", total=scale.tokens, loss="")

        def on_progress(now: TrainingProgress) -> None:
            loss = f"{now.train_loss:.3f} nats/token, {now.tokens_per_second:,.0f} tokens/s"
            bar.update(task, completed=now.tokens, description=now.stage, loss=loss)

        runs = train_proxy(
            resolve(single.design, scale, rules),
            horizons=wanted,
            corpus=text,
            recipe=single.training,
            seed=seed,
            checkpoint_dir=folder / "checkpoints" if folder else None,
            on_progress=on_progress,
        )
    if folder is not None:
        write_runs(runs_to_frame(runs), folder / "runs.parquet")
    return runs
