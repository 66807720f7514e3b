"""What a search policy is to a replay: it sees the table without its losses, and what has been paid for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moe_search.search.replay.task import Array, RecordedTable

Run = tuple[int, int]
"""(fidelity, design)."""


@dataclass
class View:
    """What a policy may know."""

    table: RecordedTable
    """Its ``loss`` is for the referee alone; whether an entry is finite says whether the run exists."""
    rng: np.random.Generator
    runs: list[Run] = field(default_factory=list)
    """Paid for, in their order."""
    losses: list[float] = field(default_factory=list)
    spent: float = 0.0
    """In runs at the target."""

    @property
    def target(self) -> int:
        """The fidelity that counts."""
        return self.table.target

    @property
    def fidelity(self) -> npt.NDArray[np.intp]:
        """Of the runs (n,)."""
        return np.array([s for s, _ in self.runs], dtype=np.intp)

    @property
    def design(self) -> npt.NDArray[np.intp]:
        """Of the runs (n,)."""
        return np.array([i for _, i in self.runs], dtype=np.intp)

    @property
    def observed(self) -> Array:
        """Of the runs (n,): log loss, or what is minimised as it is in a table where that is not always positive."""
        values = np.array(self.losses)
        return np.log(values) if self.table.positive else values

    def open_designs(self, fidelity: int) -> npt.NDArray[np.intp]:
        """Return the designs that exist at a fidelity and have not been run there."""
        done = {i for s, i in self.runs if s == fidelity}
        return np.array([i for i in self.table.options(fidelity).tolist() if i not in done], dtype=np.intp)

    def first_left(self, order: Sequence[int]) -> list[Run]:
        """Return the first design of ``order`` not yet run at the target, as a run there; none if all were."""
        done = {i for s, i in self.runs if s == self.target}
        return next(([(self.target, i)] for i in order if i not in done), [])

    def since_target(self) -> tuple[int, float]:
        """Return how many runs there were after the last one at the target, and what they cost."""
        count, cost = 0, 0.0
        for s, i in reversed(self.runs):
            if s == self.target:
                break
            count += 1
            cost += float(self.table.cost[s, i])
        return count, cost


class Policy(Protocol):
    """A way to search. A new instance is made for every replay, and may keep what it likes between calls."""

    def propose(self, view: View) -> list[Run]:
        """Return the next runs, in order; none of them paid for yet. Empty: the policy has nothing more to ask."""
        ...
