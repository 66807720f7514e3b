"""Shapes of proxies spread over what campaigns try: what a price is fitted to and checked on."""

from collections.abc import Iterator

import numpy as np

from moe_search.scaling.throughput import StepShape

WIDTHS = (64, 96, 128, 192, 256)
DENSE_SHARE = 0.15


def spread_of_designs(number: int, *, seed: int) -> Iterator[tuple[StepShape, int]]:
    """Yield ``number`` shapes with the tokens of a step: dense and routed, coarse and fine, small and wide heads."""
    draw = np.random.default_rng(seed)
    for _ in range(number):
        width = int(draw.choice(WIDTHS))
        top_k = int(draw.choice((1, 2, 4, 8, 16)))
        n_experts = min(top_k * int(draw.choice((2, 4, 8, 16))), 256)
        active_width = width * draw.uniform(1.3, 4.0)
        dense = draw.random() < DENSE_SHARE
        yield (
            StepShape(
                n_layers=int(draw.integers(2, 7)),
                d_model=width,
                n_heads=width // 32,
                n_experts=0 if dense else n_experts,
                top_k=0 if dense else top_k,
                d_expert=8 * max(round(active_width / (1 if dense else top_k) / 8), 1),
                vocab_size=int(draw.choice((256, 1024, 4096))),
                seq_len=int(draw.choice((128, 256, 512))),
            ),
            int(draw.choice((2048, 4096, 8192))),
        )
