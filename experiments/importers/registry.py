"""The sources that can be imported. A new one is one file with a ``read`` and its line here.

The file is imported when its source is asked for: a client of a tracker takes seconds to load.
"""

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import NamedTuple

from moe_search.experiments.importers.source import Raw, Source
from moe_search.spaces.errors import InvalidInputError


class Importer(NamedTuple):
    """How one source is read."""

    title: str
    """The source's full name."""
    module: str
    """The file with its ``read``, beside this one."""
    options: frozenset[str]
    """Fields of :class:`Source`, beyond the places, that it uses."""

    def read(self, source: Source) -> Raw:
        """Return the runs as one flat table."""
        member = importlib.import_module(f"moe_search.experiments.importers.{self.module}")
        raw: Raw = member.read(source)
        return raw


IMPORTERS: Mapping[str, Importer] = MappingProxyType(
    {
        "csv": Importer(title="a table (CSV, JSONL, Parquet)", module="tables", options=frozenset({"join"})),
        "mlflow": Importer(title="an MLflow store", module="mlflow", options=frozenset({"experiments"})),
        "wandb": Importer(title="an export of Weights & Biases", module="wandb", options=frozenset()),
    }
)


def names() -> tuple[str, ...]:
    """Return the names of the sources."""
    return tuple(IMPORTERS)


def get_importer(name: str) -> Importer:
    """Return the importer of a source.

    Raises:
        InvalidInputError: no such source.
    """
    if name not in IMPORTERS:
        close = get_close_matches(name, IMPORTERS, n=1, cutoff=0.0)[0]
        raise InvalidInputError(f"there is no source {name!r}", where="import", allowed=", ".join(IMPORTERS), fix=close)
    return IMPORTERS[name]
