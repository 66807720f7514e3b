"""A low-discrepancy sequence without tables: the R sequence, a rank-1 lattice of any length and dimension."""

from collections.abc import Iterator

import numpy as np


def rank_one_sequence(n_dimensions: int, seed: int) -> Iterator[np.ndarray]:
    """Yield points ``(n_dimensions,)`` of [0, 1)^n_dimensions without end, randomly shifted.

    u_i = shift + i (1/φ, ..., 1/φ^d) mod 1, with φ the positive root of x^(d+1) = x + 1: the generalised
    golden-ratio sequence (Roberts, The unreasonable effectiveness of quasirandom sequences, 2018). It fills evenly at
    any length, so that passing over infeasible points costs nothing.
    """
    phi = 2.0
    for _ in range(60):  # a contraction: phi converges to machine precision
        phi = (1 + phi) ** (1 / (n_dimensions + 1))
    steps = phi ** -np.arange(1.0, n_dimensions + 1)
    shift = np.random.default_rng(seed).random(n_dimensions)
    index = 0
    while True:
        index += 1
        yield (shift + index * steps) % 1.0
