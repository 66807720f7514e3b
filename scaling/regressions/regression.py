"""What a regression is: a rule that learns from runs, and what it learned."""

from abc import ABC, abstractmethod
from typing import Protocol

import polars as pl

from moe_search.scaling.law import Array


class Trained(Protocol):
    """A regression after it has seen runs."""

    def predict(self, frame: pl.DataFrame) -> Array:
        """Return the loss (rows,) of runs, as at the size and tokens that it was trained at."""
        ...


class Regression(ABC):
    """A regression. A new one is a subclass in one file of this folder, instantiated there as ``REGRESSION``."""

    name: str
    source: str
    convention: str
    """What it reads, and what it says nothing about."""

    @abstractmethod
    def train(self, frame: pl.DataFrame, column: str, *, seed: int = 0) -> Trained:
        """Learn the losses in ``column``.

        Args:
            frame: runs, each with a positive loss.
            column: of the losses.
            seed: of whatever is random in it.

        Raises:
            InvalidInputError: a package or a column is missing, or the runs are too few.
        """
