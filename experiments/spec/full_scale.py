"""How the integers of a large model are chosen."""

from moe_search.spaces.rules import ShapeRules

FULL_SCALE = ShapeRules(
    vocab_size=131_072,
    seq_len=8192,
    head_dim=128,
    query_groups=8,
    d_model_multiple=128,
    d_expert_multiple=128,
)
"""Multiples of 128 fill the matrix units of a GPU."""
