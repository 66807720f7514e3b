"""Which designs may be the best: those that cannot be told from the choice, all comparisons together.

With d_j = f_j - f_c the difference of design j from the choice c under a joint posterior, of mean m_j and standard
deviation s_j, and q the quantile of max_j (m_j - d_j) / s_j at the wanted level,

    the set = { j : m_j <= q s_j }

With that probability d_j >= m_j - q s_j for all j at once, so also for the best design b; and as d_b <= 0, it is in
the set. Comparing each design by itself (q = 1.64 at 95 %) says nothing about the best of many, which is the one about
which the posterior errs most: in drawn worlds such sets held it half of the time. Scheffé's argument, with the quantile
from draws.
"""

import numpy as np
import numpy.typing as npt

from moe_search.search.law_mean import Array

DRAWS = 1024
SAME = 1e-9
"""Standard deviation of a difference below which a design is the choice."""


def near_optimal(mean: Array, covariance: Array, choice: int, level: float) -> npt.NDArray[np.bool_]:
    """Say which designs are in the set ``(n,)``.

    Args:
        mean: posterior means ``(n,)``; less is better.
        covariance: ``(n, n)``.
        choice: index of the design that would be taken.
        level: probability with which the best of the ``n`` designs is in the set.
    """
    difference = mean - mean[choice]
    variance = np.diag(covariance) + covariance[choice, choice] - 2 * covariance[choice]
    spread = np.sqrt(np.clip(variance, 0.0, None))
    others = spread > SAME
    values, vectors = np.linalg.eigh(covariance)  # a root that exists also where designs coincide
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    normal = np.random.default_rng(0).standard_normal((DRAWS, len(mean)))
    errors = normal @ (root - root[choice])[others].T  # of the differences, (DRAWS, others)
    reach = float(np.quantile((-errors / spread[others]).max(axis=1, initial=0.0), level))
    return np.asarray(difference <= reach * spread)
