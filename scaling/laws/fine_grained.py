"""Fine-grained experts: the law of Krajewski et al. 2024 (arXiv 2402.07871, equation 9).

    L(N, D, G) = c + (g / G^gamma + a) / N^alpha + b / D^beta

N is the *total* number of non-embedding parameters: read as active parameters the published coefficients are off by
0.3 to 0.8 nats. They belong to an expansion rate of 64, two-matrix experts, and G = 4 d_model / d_expert.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.columns import optional, positive
from moe_search.scaling.law import Array, Law, Term, Variables, amplitude, exponent

ACTIVE_FLOPS, ROUTING_FLOPS = 6.0, 14.0
"""c_f and c_r of section 5.2: FLOPs a token, forward and backward, for a weight and for a router's logit."""
WIDTH_OF_DEPTH = 64
"""d_model = 64 n_blocks."""


@dataclass(frozen=True)
class FineGrainedOptimum:
    """The best model of a training budget under the published shapes."""

    granularity: float
    base_parameters: float
    """Parameters of the dense model with the same active width: 12 d_model² n_blocks."""
    tokens: float
    loss: float


class FineGrained(Law):
    """Granularity at a fixed expansion rate."""

    name = "fine_grained"
    equation = "L = c + (g/G^gamma + a)/N^alpha + b/D^beta"
    source = "Krajewski et al. 2024, arXiv 2402.07871, equation 9 and table 1"
    convention = (
        "N: total parameters without embeddings; D: tokens; G: dense FFN width over expert width, the dense FFN having "
        "the parameters of an ungated one of width 4 d_model (our `granularity`)"
    )
    parameters = (
        amplitude("c", "irreducible loss", 0.47, spread=0.5),
        amplitude("a", "loss at N = 1 from finite parameters, infinitely fine experts", 18.1, "N"),
        amplitude("g", "what coarse experts add to a, at G = 1", 2.1, "N", "G", spread=1.5),
        amplitude("b", "loss at D = 1 from finite tokens", 30.8, "D"),
        exponent("alpha", "exponent of parameters", 0.115, "N"),
        exponent("gamma", "exponent of granularity", 0.58, "G", spread=0.3),
        exponent("beta", "exponent of tokens", 0.147, "D"),
    )
    published = MappingProxyType(
        {
            "krajewski2024": {"c": 0.47, "a": 18.1, "g": 2.1, "b": 30.8, "alpha": 0.115, "gamma": 0.58, "beta": 0.147},
        }
    )

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N, D and G (1 where the table has no granularity)."""
        return {
            "N": positive(frame, "n_total_non_embedding", "n_total", law=self.name),
            "D": positive(frame, "tokens", law=self.name),
            "G": optional(frame, "granularity", default=1.0, law=self.name),
        }

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return c, a/N^alpha, g/(G^gamma N^alpha) and b/D^beta."""
        c, a, g, b, alpha, gamma, beta = theta
        log_n, log_d, log_g = np.log(x["N"]), np.log(x["D"]), np.log(x["G"])
        return (
            Term(c, {0: 1.0}),
            Term(a - alpha * log_n, {1: 1.0, 4: -log_n}),
            Term(g - gamma * log_g - alpha * log_n, {2: 1.0, 4: -log_n, 5: -log_g}),
            Term(b - beta * log_d, {3: 1.0, 6: -log_d}),
        )

    def compute_optimal(
        self, train_flops: float, *, experts: int = 64, coefficients: Mapping[str, float] | None = None
    ) -> FineGrainedOptimum:
        """Return the best granularity (a power of two), size and tokens for ``train_flops``, router included.

        FLOPs = (12 d² c_f + d E G c_r) n_blocks D with N = d² (8 E + 4) n_blocks and d = 64 n_blocks (section 5.2).
        """
        blocks = np.geomspace(2, 4000, 4001)[None, :]
        granularity = 2.0 ** np.arange(11)[:, None]
        d_model = WIDTH_OF_DEPTH * blocks
        flops = (12 * d_model**2 * ACTIVE_FLOPS + d_model * experts * granularity * ROUTING_FLOPS) * blocks
        grid = np.broadcast_arrays(d_model**2 * (8 * experts + 4) * blocks, train_flops / flops, granularity)
        n, d, g = (axis.ravel() for axis in grid)
        loss = self.predict(coefficients or self.published["krajewski2024"], {"N": n, "D": d, "G": g})
        best = int(np.argmin(loss))
        return FineGrainedOptimum(
            granularity=float(g[best]),
            base_parameters=float(12 * n[best] / (8 * experts + 4)),
            tokens=float(d[best]),
            loss=float(loss[best]),
        )


LAW = FineGrained()
