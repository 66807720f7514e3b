"""Token mixers: what a layer does along the sequence.

Proxies are trained with grouped-query attention; the others exist so that published models are counted exactly. A new
mixer is a class with its sizes and five sums (:class:`~moe_search.spaces.mixers.base.TokenMixer`), listed here.
"""

from typing import Annotated

from pydantic import Field

from moe_search.spaces.mixers.base import TokenMixer, causal_keys
from moe_search.spaces.mixers.compressed import CompressedAttention
from moe_search.spaces.mixers.convolutional import ConvolutionalAttention
from moe_search.spaces.mixers.grouped_query import GroupedQueryAttention, SparseIndexer
from moe_search.spaces.mixers.latent import LatentAttention
from moe_search.spaces.mixers.recurrent import GatedDeltaNet, KimiDeltaAttention, LightningAttention, Mamba2

Mixer = Annotated[
    GroupedQueryAttention
    | LatentAttention
    | CompressedAttention
    | ConvolutionalAttention
    | GatedDeltaNet
    | KimiDeltaAttention
    | LightningAttention
    | Mamba2,
    Field(discriminator="kind"),
]

__all__ = [
    "CompressedAttention",
    "ConvolutionalAttention",
    "GatedDeltaNet",
    "GroupedQueryAttention",
    "KimiDeltaAttention",
    "LatentAttention",
    "LightningAttention",
    "Mamba2",
    "Mixer",
    "SparseIndexer",
    "TokenMixer",
    "causal_keys",
]
