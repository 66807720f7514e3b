"""The published MoE models by name: official numbers, and an architecture that counts to them.

The table ``known_moe_configs.csv`` holds dimensions and official totals with their conventions; ``families`` adds what
else a ``config.json`` would say, and :mod:`moe_search.spaces.huggingface` reads both.
"""

import csv
import difflib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from pydantic import ConfigDict, field_validator

from moe_search.spaces.accounting import Count
from moe_search.spaces.architecture import Architecture
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.huggingface import architecture_from_config
from moe_search.spaces.presets.families import FAMILY


def _by_convention(convention: str, whole: int, inner: int, embedding: int) -> float:
    """Return billions of parameters: of ``whole``, with or without embeddings, as a publication counts them."""
    match convention:
        case "all parameters":
            return whole / 1e9
        case "without input embedding":
            return (whole - embedding) / 1e9
        case "without embeddings" | "without any embedding":
            return inner / 1e9
        case _:
            raise AssertionError(f"the table has an unknown convention {convention!r}")


class PublishedRow(Frozen):
    """One row of the table; billions where a name ends in ``_b``. Columns of the table's own sheet are left out."""

    model_config = ConfigDict(extra="ignore")

    model: str
    org: str
    year: int
    attention: str
    layers: int
    moe_layers: int
    dense_layers: int
    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied_embeddings: bool
    experts: int
    top_k: int
    shared_experts: int
    d_expert: int
    shared_ff: int
    dense_ff: int
    latent_dim: int | None
    gated_ffn: bool
    official_total_b: float
    official_active_b: float
    calc_total_b: float
    calc_active_all_b: float
    total_convention: str
    active_convention: str
    tokens_t: float | None
    """Training tokens in trillions."""
    status: str
    """``verified`` against a released file, or ``known`` from publications."""
    source: str
    note: str

    @field_validator("latent_dim", "tokens_t", mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        return None if value == "" else value

    def total_b(self, count: Count) -> float:
        """Return a count's total in billions, under the convention of the official number."""
        return _by_convention(self.total_convention, count.n_total, count.n_total_non_embedding, count.embedding)

    def active_b(self, count: Count) -> float:
        """Return a count's active parameters in billions, under the convention of the official number.

        A tied matrix counts as the output head, so that nothing is left out as an input embedding.
        """
        embedding = 0 if self.tied_embeddings else count.embedding
        return _by_convention(self.active_convention, count.n_active, count.n_active_non_embedding, embedding)

    def config(self) -> dict[str, Any]:
        """Return the row as a ``config.json``, each size under the names that families use for it."""
        model_type, more = FAMILY[self.model]
        shared_width = self.shared_ff // max(self.shared_experts, 1)
        return {
            "model_type": model_type,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "attn_config": {"kv_n_heads": self.kv_heads},
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied_embeddings,
            **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), self.experts),
            **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk"), self.top_k),
            "ffn_config": {
                "moe_num_experts": self.experts,
                "moe_top_k": self.top_k,
                "ffn_hidden_size": self.d_expert,
            },
            "n_shared_experts": 1 if model_type == "nemotron_h" else self.shared_experts,
            "num_shared_expert": self.shared_experts,
            "moe_intermediate_size": self.d_expert,
            "intermediate_size": self.d_expert
            if model_type in ("llama4_text", "minimax_m3_vl_text")
            else self.dense_ff or self.d_expert,
            "intermediate_size_mlp": self.dense_ff or self.d_expert,
            "dense_intermediate_size": self.dense_ff,
            "shared_expert_intermediate_size": self.shared_ff,
            "shared_intermediate_size": shared_width,
            "moe_shared_expert_intermediate_size": self.shared_ff,
            "moe_latent_size": self.latent_dim,
            "routed_expert_hidden_size": self.latent_dim,
            "first_k_dense_replace": self.dense_layers,
            **more,
        }


@cache
def _rows() -> Mapping[str, PublishedRow]:
    text = resources.files(__package__).joinpath("known_moe_configs.csv").read_text(encoding="utf-8")
    rows = [PublishedRow.model_validate(row) for row in csv.DictReader(text.splitlines())]
    return MappingProxyType({row.model: row for row in rows})


def published_names() -> tuple[str, ...]:
    """Return the names of all published models, in the order of the table."""
    return tuple(_rows())


def published_row(name: str) -> PublishedRow:
    """Return the table's row of a model; upper and lower case are the same.

    Raises:
        InvalidInputError: there is no such model.
    """
    lower = {known.lower(): known for known in _rows()}
    if name.lower() not in lower:
        near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0)
        raise InvalidInputError(
            f"no published model is called {name!r}", allowed=", ".join(_rows()), fix=lower[near[0]]
        )
    return _rows()[lower[name.lower()]]


@cache
def _architecture(name: str) -> Architecture:
    return architecture_from_config(_rows()[name].config()).replace(name=name)


def published(name: str) -> Architecture:
    """Return the architecture of a published model (the text part, without multi-token-prediction layers).

    Raises:
        InvalidInputError: there is no such model.
    """
    return _architecture(published_row(name).model)
