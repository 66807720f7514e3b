"""The figures of the report: one file each, found by looking into this folder.

A new figure is a new file that defines ``FIGURE``: the section it belongs to, its rank there, and a function that
draws it or answers, in one sentence, why the data do not allow it. The reader sees the sentence, never an empty plot.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import plotly.graph_objects as go

from moe_search.scaling.report.contents import ReportInput


@dataclass(frozen=True)
class Plot:
    """One drawn figure with its words."""

    figure: go.Figure
    title: str
    caption: str
    """What to see, how it was computed, in which units: plain text."""
    half: bool = False
    """Whether two such plots may stand side by side on a wide screen."""


@dataclass(frozen=True)
class Figure:
    """A member of the registry."""

    section: str
    rank: int
    draw: Callable[[ReportInput], list[Plot] | str]
    """The plots; or why there are none; or an empty list where the section itself says so."""


@cache
def figures() -> dict[str, Figure]:
    """Return every figure by the name of its file, in reading order."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    found = {name: importlib.import_module(f"{__name__}.{name}").FIGURE for name in names}
    return dict(sorted(found.items(), key=lambda item: (item[1].section, item[1].rank)))
