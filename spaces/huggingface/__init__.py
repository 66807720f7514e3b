"""Hugging Face ``config.json`` to :class:`~moe_search.spaces.architecture.Architecture`.

A family is one function that reads the fields of its config; tests compare its parameter count with the model that
``transformers`` builds. What is not counted: vision and audio towers, multi-token-prediction layers.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from moe_search.spaces.architecture import Architecture
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.huggingface import hybrid, softmax
from moe_search.spaces.huggingface.fields import Fields

FAMILIES: Mapping[str, Callable[[Fields], Architecture]] = MappingProxyType(
    {
        "bailing_moe": softmax.deepseek_moe,
        "bailing_moe_v2": softmax.deepseek_moe,
        "dbrx": softmax.dbrx,
        "deepseek": softmax.deepseek_moe,
        "deepseek_v2": softmax.deepseek_v2,
        "deepseek_v3": softmax.deepseek_v3,
        "deepseek_v32": softmax.glm_moe_dsa,
        "deepseek_v4": hybrid.deepseek_v4,
        "dots1": softmax.deepseek_moe,
        "ernie4_5_moe": softmax.ernie,
        "glm4_moe": softmax.deepseek_moe,
        "glm_moe_dsa": softmax.glm_moe_dsa,
        "gpt_oss": softmax.gpt_oss,
        "granitemoe": softmax.granitemoe,
        "grok-1": softmax.grok,
        "hunyuan": softmax.hunyuan,
        "hunyuan_v1_moe": softmax.hunyuan,
        "kimi_k2": softmax.deepseek_v3,
        "kimi_linear": hybrid.kimi_linear,
        "llama": softmax.llama,
        "llama4_text": softmax.llama4,
        "minimax": hybrid.minimax,
        "minimax_m1": hybrid.minimax,
        "minimax_m2": softmax.minimax_m2,
        "minimax_m3_vl_text": softmax.minimax_m3,
        "minimax_text_01": hybrid.minimax,
        "mistral": softmax.llama,
        "mixtral": softmax.mixtral,
        "nemotron_h": hybrid.nemotron_h,
        "olmoe": softmax.olmoe,
        "phimoe": softmax.phimoe,
        "qwen2": softmax.qwen2,
        "qwen2_moe": softmax.qwen2_moe,
        "qwen3": softmax.qwen3,
        "qwen3_5_moe_text": hybrid.qwen3_next,
        "qwen3_moe": softmax.qwen3_moe,
        "qwen3_next": hybrid.qwen3_next,
        "zaya": hybrid.zaya,
    }
)
"""Families by the ``model_type`` of their text part."""


def architecture_from_config(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture that a ``config.json`` describes, with the text part of multimodal wrappers.

    Args:
        config: the parsed JSON. Sizes that a family's models share may be left out, all others have to be there.

    Raises:
        InvalidInputError: unknown ``model_type``, or a missing or impossible field.
    """
    fields = Fields(config)
    family = FAMILIES.get(fields.model_type) or FAMILIES.get(f"{fields.model_type}_text")
    if family is None:
        raise InvalidInputError(
            f"model_type {fields.model_type!r} is not known" if fields.model_type else "model_type is missing",
            where="config.json",
            allowed=", ".join(FAMILIES),
            fix="describe the model as an architecture JSON instead",
        )
    try:
        return family(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        cause = problem.get("ctx", {}).get("error", problem["msg"])
        raise InvalidInputError(f"{cause}", where=f"config.json ({fields.model_type})") from error
