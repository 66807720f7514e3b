"""Reading a Hugging Face ``config.json``: typed fields, synonyms, and errors that name the field."""

from collections.abc import Mapping, Sequence
from typing import Any

from moe_search.spaces.errors import InvalidInputError

SEQ_LEN = 4096


class Fields:
    """A ``config.json`` as a mapping, with the text part of a multimodal wrapper taken out.

    Fields may stand under several names; the first present and not null counts.

    Args:
        config: the mapping.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        inner = next((config[name] for name in ("text_config", "llm_config") if config.get(name)), None)
        if inner is not None and not isinstance(inner, Mapping):
            raise InvalidInputError(f"text_config is {inner!r}", where="text_config", allowed="a mapping")
        outer = {name: config[name] for name in ("tie_word_embeddings",) if name in config}
        self._config: dict[str, Any] = {**outer, **inner} if inner is not None else dict(config)
        self.model_type = str(self._config.get("model_type", config.get("model_type", "")))

    def get(self, *names: str) -> Any:
        """Return the value under the first of ``names`` that is present and not null; None without one."""
        return next((self._config[name] for name in names if self._config.get(name) is not None), None)

    def integer(self, *names: str, default: int | None = None) -> int:
        """Return a non-negative integer.

        Raises:
            InvalidInputError: it is missing and there is no default, or it is something else.
        """
        value = self.get(*names)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            what = "is missing" if value is None else f"is {value!r}"
            raise InvalidInputError(
                f"{names[0]} {what}", where=f"config.json ({self.model_type})", allowed="an integer"
            )
        return value

    def optional(self, *names: str) -> int | None:
        """Return a positive integer, or None where it is null, zero or missing."""
        return self.integer(*names, default=0) or None

    def flag(self, *names: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.get(*names)
        return default if value is None else bool(value)

    def number(self, *names: str, default: float) -> float:
        """Return a number."""
        value = self.get(*names)
        return float(value) if isinstance(value, (int, float)) else default

    def sequence(self, *names: str) -> list[Any] | None:
        """Return a list, or None where it is missing."""
        value = self.get(*names)
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None

    def nested(self, name: str) -> "Fields":
        """Return the fields of a nested mapping, empty where it is missing."""
        value = self.get(name)
        return Fields({**(value if isinstance(value, Mapping) else {}), "model_type": self.model_type})

    def per_layer(self, *names: str, n_layers: int, default: int | None = None) -> list[int]:
        """Return an integer for every layer, from a list or from one number."""
        values = self.sequence(*names)
        if values is None:
            return [self.integer(*names, default=default)] * n_layers
        return [int(value) for value in values[:n_layers]]

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.integer("num_hidden_layers", "n_layers")

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.integer("hidden_size", "d_model")

    @property
    def rope_theta(self) -> float:
        """Base of the rotary embedding."""
        nested = self.get("rope_parameters", "rope_scaling")
        theta = nested.get("rope_theta") if isinstance(nested, Mapping) else None
        return float(theta) if isinstance(theta, (int, float)) else self.number("rope_theta", default=10_000.0)

    @property
    def seq_len(self) -> int:
        """Length at which FLOPs and caches are quoted: positions may go further than training went."""
        return min(self.integer("max_position_embeddings", "max_seq_len", default=SEQ_LEN) or SEQ_LEN, SEQ_LEN)
