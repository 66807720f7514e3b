"""Two streams: data on stdout, talk on stderr. Nothing else in the application prints.

What others have written (names of columns and files, messages of servers) is shown as it is: only the tags of ours are
styles, nothing moves the cursor or asks the terminal for anything, and no sentence holds a password.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.errors import MarkupError
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text
from rich.theme import Theme

from moe_search.experiments.logging import event, wants_json
from moe_search.search.redacting import redacted

_THEME = Theme(
    {
        "key": "cyan",
        "quiet": "bright_black",
        "good": "green",
        "warn": "yellow",
        "bad": "bold red",
        "heading": "bold",
    }
)
_FOREIGN_TAG = re.compile(r"(\\*)\[(?!/?(?:bold|cyan|yellow|red|bright_black|key|quiet|good|warn|bad|heading)?\])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that a terminal obeys (line feeds and tabs are text), and bytes of a file's name that are no text."""
_REPLACED = "\N{REPLACEMENT CHARACTER}"

_WIDTH_ELSEWHERE = 132
"""Columns of a table that goes to a file or a pipe; on a terminal its own."""


class _Console(Console):
    """A console that takes text from outside for text."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text with the styles that its tags name, if they are ours."""
        text = _CONTROL.sub(_REPLACED, text)  # before anybody measures it
        try:
            return super().render_str(_FOREIGN_TAG.sub(r"\1\1\\[", text), **options)
        except MarkupError:  # one of ours, in a text that is not
            return super().render_str(escape(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is written, without the control characters that are not of the console's own making."""
        for segment in super().render(renderable, options):
            if segment.control is None and _CONTROL.search(segment.text):
                yield Segment(_CONTROL.sub(_REPLACED, segment.text), segment.style)
            else:
                yield segment


def _console(stream: str) -> _Console:
    is_terminal = getattr(sys, stream).isatty()
    return _Console(
        theme=_THEME,
        stderr=stream == "stderr",
        highlight=False,
        emoji=False,
        width=None if is_terminal else _WIDTH_ELSEWHERE,
    )


out = _console("stdout")
"""Data: tables, or nothing at all when ``--json`` prints an object."""
talk = _console("stderr")
"""Everything that is said on the way."""


def print_json(data: Any) -> None:
    """Print one JSON value on stdout, never wrapped and never coloured."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """Say something that does not stop the work."""
    _say("warning", text, Text.assemble(("warning:", "warn"), " "), logging.WARNING)


def error(text: str) -> None:
    """Say why the command ends without doing what was asked."""
    _say("error", text, Text.assemble(("error:", "bad"), " "), logging.ERROR)


def note(text: str) -> None:
    """Say what is being done."""
    _say("note", text, Text(style="quiet"))


def say(text: str) -> None:
    """Say how things end."""
    _say("note", text, Text())


def _say(name: str, text: str, beginning: Text, level: int = logging.INFO) -> None:
    if wants_json():
        event(name, text, level=level)
    else:
        talk.print(beginning.append(redacted(text)), soft_wrap=True)
