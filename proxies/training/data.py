"""The loader of a trunk or branch: the mixture stream from one step to another.

A batch is a function of (seed, step), so a loader that begins at step s gives exactly what an unbroken run sees there.
"""

import copy
from collections.abc import Iterator

from torch.utils.data import DataLoader, IterableDataset

from moe_search.proxies.stream import Batch, MixtureStream

TOKENS_TOGETHER = 2**15
"""Cut from the corpus at once: a small batch is all overhead. The stream does not depend on how it is cut."""


class StepRange(IterableDataset[Batch]):
    """The batches of steps ``first_step`` to ``last_step - 1``."""

    def __init__(self, stream: MixtureStream, first_step: int, last_step: int) -> None:
        self.stream = stream
        self.first_step = first_step
        self.last_step = last_step

    def __len__(self) -> int:
        return self.last_step - self.first_step

    def __iter__(self) -> Iterator[Batch]:
        sequences = self.stream.batch_sequences
        together = max(1, TOKENS_TOGETHER // (sequences * self.stream.seq_len))
        wide = copy.copy(self.stream)
        wide.batch_sequences = together * sequences
        for number in range(self.first_step // together, (self.last_step - 1) // together + 1):
            block = wide.batch(number)
            for step in range(max(self.first_step, number * together), min(self.last_step, (number + 1) * together)):
                rows = slice((step - number * together) * sequences, (step + 1 - number * together) * sequences)
                yield Batch(block.tokens[rows], block.domains[rows])


def step_loader(stream: MixtureStream, first_step: int, last_step: int, *, pin_memory: bool) -> DataLoader[Batch]:
    """Return a loader of whole batches; cutting windows from mapped memory is too cheap to be worth a process.

    Args:
        stream: where batches come from.
        first_step: first optimiser step, counted from the start of the trunk.
        last_step: the step after the last.
        pin_memory: whether batches go to a CUDA device.
    """
    return DataLoader(StepRange(stream, first_step, last_step), batch_size=None, pin_memory=pin_memory)
