"""What every token mixer knows about itself: the five sums that :mod:`moe_search.spaces.accounting` asks for."""

from abc import abstractmethod

from moe_search.spaces.frozen import Frozen


def causal_keys(seq_len: float, window: int | None = None) -> float:
    """Return the keys that a query sees under a causal mask, averaged over a sequence of ``seq_len`` tokens.

    Query t (from 1) sees min(t, window) keys: (S + 1) / 2 on average without a window.
    """
    reach = min(seq_len, window or seq_len)
    return reach - reach * (reach - 1) / (2 * seq_len)


class TokenMixer(Frozen):
    """A layer's part along the sequence."""

    @abstractmethod
    def matrices(self, d_model: int) -> int:
        """Return the entries of all projection matrices: parameters, and multiply-adds a token."""

    @abstractmethod
    def vectors(self, d_model: int) -> int:
        """Return the other parameters: biases, norm gains, sinks, decays, short convolutions."""

    @abstractmethod
    def sequence_flops(self, seq_len: int) -> float:
        """Return the forward FLOPs a token spent on other tokens (scores and values, state updates), sequence mean."""

    @abstractmethod
    def activations(self, d_model: int) -> int:
        """Return the numbers a token keeps for the backward pass: inputs of all products, no attention weights."""

    @abstractmethod
    def cache(self, seq_len: int) -> float:
        """Return the numbers that a sequence of ``seq_len`` tokens holds at inference: keys and values, or a state."""
