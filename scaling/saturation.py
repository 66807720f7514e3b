"""The saturating transform of Clark et al. 2022 (equation 7), used by two MoE laws with different arguments.

    1/Eh = 1 / (x + (1/start - 1/most)^-1) + 1/most

Eh equals ``start`` at x = 0, grows like x, and saturates at ``most``.
"""

import numpy as np

from moe_search.scaling.law import Array


def saturate(x: Array, start: Array, most: Array) -> tuple[Array, Array, Array]:
    """Return ln Eh, its derivative by ln start, and its derivative by ln most; the arguments broadcast.

    Args:
        x: what is transformed, >= 0; for experts E it is E - 1.
        start: value at x = 0; below ``most``.
        most: the limit.
    """
    offset = 1 / (1 / start - 1 / most)
    shifted = x + offset
    saturated = 1 / (1 / shifted + 1 / most)
    kept = (offset / shifted) ** 2
    return np.log(saturated), saturated / start * kept, saturated / most * (1 - kept)
