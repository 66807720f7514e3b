"""Text that is read again: what a mixture amounts to at a scale where a domain has fewer tokens than are asked of it.

With D tokens of mixture h and U_d different tokens of domain d, repeated ones fade (Muennighoff et al. 2023, eq. 5):

    D'_d = u (1 + R (1 - exp(-r / R))),     u = min(h_d D, U_d),   r = h_d D / u - 1

so that the run is one of D' = sum_d D'_d tokens of the mixture D'_d / D'. A proxy repeats little and a full-scale run
may repeat a lot: seen by these coordinates, a mixture that will have to repeat lies where its fresh equivalent does,
and its law has fewer tokens. Where nothing is scarce they are the plain ones.
"""

import numpy as np

from moe_search.search.law_mean import Array

LASTING = 15.39
"""R: repetitions worth having, as published."""
MORE_THAN_ENOUGH = 1e30
"""Different tokens of a domain that never runs out."""


def fresh_equivalent(weights: Array, tokens: Array, unique: Array) -> tuple[Array, Array]:
    """Return the fresh tokens that runs amount to ``(n,)``, and their mixture ``(n, k)``.

    Args:
        weights: of the domains ``(n, k)``, rows summing to one.
        tokens: of the runs ``(n,)``.
        unique: different tokens there are of each domain ``(n, k)`` or ``(k,)``; infinite: more than enough.
    """
    drawn = weights * tokens[:, None]
    fresh = np.minimum(drawn, unique)
    repeats = np.divide(drawn, fresh, out=np.ones_like(drawn), where=fresh > 0) - 1
    worth = fresh * (1 + LASTING * (1 - np.exp(-repeats / LASTING)))
    total = worth.sum(axis=1)
    return total, worth / total[:, None]
