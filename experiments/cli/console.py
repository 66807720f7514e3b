"""Two streams: data on stdout, talk on stderr. Nothing else in the application prints."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.theme import Theme

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

_WIDTH_ELSEWHERE = 132
"""Columns of a table that goes to a file or a pipe; on a terminal its own."""

out = Console(theme=_THEME, highlight=False, width=None if sys.stdout.isatty() else _WIDTH_ELSEWHERE)
"""Data: tables, or nothing at all when ``--json`` prints an object."""
talk = Console(theme=_THEME, stderr=True, highlight=False, width=None if sys.stderr.isatty() else _WIDTH_ELSEWHERE)
"""Everything that is said on the way."""


def print_json(data: Any) -> None:
    """Print one JSON value on stdout, never wrapped and never coloured."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """Say something that does not stop the work."""
    talk.print(f"[warn]warning:[/warn] {_escape(text)}", soft_wrap=True)


def error(text: str) -> None:
    """Say why the command ends without doing what was asked."""
    talk.print(f"[bad]error:[/bad] {_escape(text)}", soft_wrap=True)


def note(text: str) -> None:
    """Say what is being done."""
    talk.print(f"[quiet]{_escape(text)}[/quiet]", soft_wrap=True)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
