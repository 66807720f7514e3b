"""The library of scaling laws: one file a law, each with its instance ``LAW``. Adding a file adds a law.

``chinchilla:E=1.69`` is a law with a parameter held at a value, ``chinchilla:E=integrated`` one with a parameter that
is integrated over (:mod:`moe_search.scaling.pinned`), ``path/to/law.yaml`` one that a user wrote down
(:mod:`moe_search.scaling.expression_law`).
"""

import difflib
import importlib
import pkgutil
import re
from functools import cache
from pathlib import Path

from moe_search.scaling.expression_law import ExpressionLaw, read_law
from moe_search.scaling.law import Law
from moe_search.scaling.pinned import Pinned, parse_held
from moe_search.scaling.regressions import find_regression
from moe_search.spaces.errors import InvalidInputError


@cache
def _laws() -> dict[str, Law]:
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {law.name: law for law in (module.LAW for module in modules)}


def law_names() -> tuple[str, ...]:
    """Return the names of all laws, sorted."""
    return tuple(sorted(_laws()))


def get_law(name: str, definition: str | None = None) -> Law:
    """Return the law called ``name``.

    Args:
        name: of a law of the library, or the path of a YAML file; ``:PARAMETER=VALUE,...`` after it holds parameters at
            natural values, ``:PARAMETER=integrated`` integrates over one.
        definition: the text of the law, instead of a file's.

    Raises:
        InvalidInputError: there is none (the nearest name is suggested), or it cannot be held so.
    """
    base, colon, held = name.rpartition(":") if re.search(r":[^:/\\]*=", name) else (name, "", "")
    if definition is not None:
        law: Law = ExpressionLaw(definition, where=base)
    elif base.endswith((".yaml", ".yml")):
        law = read_law(Path(base))
    else:
        law = _member(base)
    if not colon:
        return law
    values, integrated = parse_held(held)
    return Pinned(law, values, integrated=integrated)


def _member(name: str) -> Law:
    if find_regression(name):
        raise InvalidInputError(
            f"{name} is a regression, which has no parameters and no scale, and is compared with laws by runs left out",
            where="--law",
            fix="add --folds 5",
        )
    if name not in _laws():
        nearest = difflib.get_close_matches(name, law_names(), n=1, cutoff=0.0)
        raise InvalidInputError(f"unknown law {name!r}", where="--law", allowed=", ".join(law_names()), fix=nearest[0])
    return _laws()[name]
