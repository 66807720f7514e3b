"""Shape rules: how the integers of an architecture are chosen, whatever its size."""

import math
from typing import Annotated

from pydantic import Field

from moe_search.spaces.frozen import Frozen

Count = Annotated[int, Field(gt=0, le=2**24)]
"""More than any model has, and little enough for its products to be exact in 64 bits."""


class ShapeRules(Frozen):
    """Divisibility, depth and attention layout; the defaults suit proxies on a CPU, large models want 128 and more."""

    vocab_size: Count = 4096
    seq_len: Count = 256
    head_dim: Count = 16
    query_groups: Count = 1
    """Wanted queries a key/value head; the divisor of ``n_heads`` nearest to it is taken."""
    d_model_multiple: Count = 16
    d_expert_multiple: Count = 8
    """Of expert widths and of dense FFN widths."""
    experts_multiple: Count = 1
    """Of every layer's routed experts (expert parallelism)."""
    depth_coefficient: float = Field(default=0.36, gt=0)
    depth_exponent: float = Field(default=0.58, ge=0)
    """n_layers ~ coefficient * d_model**exponent: 4 layers at 64, 61 at 7168 (DeepSeek-V3)."""
    min_layers: int = Field(default=2, gt=0, le=4096)
    ffn_ratio: float = Field(default=8 / 3, gt=0)
    """Width of the dense reference FFN over d_model; 8/3 gives a gated FFN the parameters of an ungated one at 4."""
    tied_embeddings: bool = False
    qk_norm: bool = True
    rope_theta: float = Field(default=10_000.0, gt=0)
    max_top_k: Count | None = None
    """Most routed experts a token; None: no limit."""

    @property
    def d_model_step(self) -> int:
        """What ``d_model`` is a multiple of."""
        return math.lcm(self.head_dim, self.d_model_multiple)

    def depth(self, d_model: float) -> float:
        """Return the unrounded number of layers at ``d_model``."""
        return float(max(self.depth_coefficient * d_model**self.depth_exponent, self.min_layers))

    def kv_heads(self, n_heads: int) -> int:
        """Return the divisor of ``n_heads`` that comes nearest, in ratio, to ``query_groups`` queries each."""
        wanted = max(n_heads / self.query_groups, 1.0)
        small = [n for n in range(1, math.isqrt(n_heads) + 1) if n_heads % n == 0]
        return min(small + [n_heads // n for n in small], key=lambda n: (abs(math.log(n / wanted)), -n))
