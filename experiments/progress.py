"""One bar for the whole campaign on a terminal, one line now and then elsewhere."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from moe_search.experiments import numbers
from moe_search.experiments.logging import event, wants_json
from moe_search.experiments.overview import Overview, share
from moe_search.experiments.wording import design_words, scale_words

SECONDS_BETWEEN_LINES = 15.0


class CampaignProgress:
    """Shows how the search goes; use as a context manager.

    Args:
        console: where; a bar if it is a terminal, else lines.
        quiet: show nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._began = time.monotonic()
        self._first_flops: float | None = None
        self._last_line = -SECONDS_BETWEEN_LINES
        self._last_ended = -1
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet and not wants_json():
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, now: Overview) -> None:
        """Show the state of the campaign."""
        if self._first_flops is None:
            self._first_flops = now.done_flops
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(self._bar(now))
            return
        elapsed = time.monotonic() - self._began
        if elapsed - self._last_line >= SECONDS_BETWEEN_LINES and now.ended != self._last_ended:
            self._last_line, self._last_ended = elapsed, now.ended
            if wants_json():
                event("progress", _words(now), **_fields(now))
                return
            self._console.print(f"{now.share:4.0%}  {self._times(now)} | {_words(now)}", soft_wrap=True)

    def _bar(self, now: Overview) -> Group:
        line = Table.grid(padding=(0, 1), expand=False)
        line.add_row(
            Text("searching", style="bold"),
            ProgressBar(total=1.0, completed=now.share, width=32),
            Text(f"{now.share:4.0%}", style="cyan"),
            Text(self._times(now), style="bright_black"),
        )
        lines: list[RenderableType] = [line, _one_line(_words(now))]
        for running in now.status.running:
            loss = f", {running.loss:.2f} nats" if running.loss is not None else ""
            design = design_words(now.trials[running.trial].design)
            text = f"  trial {running.trial}: {scale_words(running.scale)}, {share(running):.0%}{loss} | {design}"
            lines.append(_one_line(text, style="bright_black"))
        return Group(*lines)

    def _times(self, now: Overview) -> str:
        elapsed = time.monotonic() - self._began
        spent = now.done_flops - (self._first_flops or 0.0)
        text = numbers.duration(elapsed)
        if spent > 0 and elapsed > 10:
            text += f", about {numbers.duration(now.left_flops * elapsed / spent)} left"
        return text


def _fields(now: Overview) -> dict[str, Any]:
    status, budget = now.status, now.status.budget
    best = status.best
    return {
        "trials": status.trials,
        "settled_flops": budget.settled,
        "reserved_flops": budget.reserved,
        "remaining_flops": budget.remaining,
        "best": None if best is None else {"trial": best.trial, "bpb": best.bpb},
    }


def _words(now: Overview) -> str:
    trials, best = now.status.trials, now.status.best
    parts = [f"{trials.get('finished', 0)} done, {len(now.status.running)} running"]
    parts += [f"{count} {state}" for state, count in trials.items() if state not in {"finished", "running", "waiting"}]
    if best is not None:
        parts.append(f"best {best.bpb:.3f} bits/byte ({scale_words(best.scale)})")
    parts.append(f"{numbers.flops(now.left_flops)} FLOPs left")
    return " | ".join(parts)


def _one_line(text: str, *, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
