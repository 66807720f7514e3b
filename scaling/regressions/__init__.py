"""Regressions of a loss on mixture weights: one file a member, each with its instance ``REGRESSION``.

A regression has no equation, no parameters to report and no scale: it interpolates between mixtures at the size and
tokens that it was trained at. So it is no ``Law``; it is judged beside laws by what both can do, predicting runs that
were left out (:mod:`moe_search.scaling.regressions.choice`). A linear regression of log loss has an equation: it is the
law ``log_linear``. Adding a file adds a regression.
"""

import importlib
import pkgutil
from functools import cache

from moe_search.scaling.regressions.regression import Regression

NOT_MEMBERS = ("regression", "choice")


@cache
def _regressions() -> dict[str, Regression]:
    names = (info.name for info in pkgutil.iter_modules(__path__) if info.name not in NOT_MEMBERS)
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return {regression.name: regression for regression in (module.REGRESSION for module in modules)}


def regression_names() -> tuple[str, ...]:
    """Return the names of all regressions, sorted."""
    return tuple(sorted(_regressions()))


def find_regression(name: str) -> Regression | None:
    """Return the regression called ``name``; None where there is none of that name."""
    return _regressions().get(name)
