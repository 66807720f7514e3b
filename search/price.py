"""What a trial takes on the machine that began the campaign, in device-seconds, before it runs.

The policy spends training FLOPs, because that is what the budget is in and what makes designs comparable. Seconds are
written beside them with every trial, so that nobody is surprised by a fine-grained one.
"""

import math

from pydantic import PositiveInt

from moe_search.scaling.throughput import Throughput
from moe_search.spaces.architecture import Architecture
from moe_search.spaces.frozen import Frozen


class Price(Frozen):
    """Measured throughput, and the batches that it is asked about."""

    throughput: Throughput
    batches: tuple[tuple[PositiveInt, PositiveInt], ...]
    """Active parameters of the ladder's sizes, and the tokens of a forward pass there."""

    def seconds_per_token(self, architecture: Architecture, n_active: int) -> float:
        """Return device-seconds a training token.

        Args:
            architecture: the model.
            n_active: its size; the batch is that of the nearest size of the ladder.
        """
        _, batch = min(self.batches, key=lambda pair: abs(math.log(pair[0] / n_active)))
        return self.throughput.seconds_per_token(architecture, batch_tokens=batch)
