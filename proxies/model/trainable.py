"""Which architectures can be trained here. Everything else can be counted, but building it would be a silent lie."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from moe_search.spaces.architecture import Architecture, DenseFFN, MoEFFN
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.mixers import GroupedQueryAttention

BUILT_FIELDS: Mapping[type[Frozen], frozenset[str]] = MappingProxyType(
    {
        Architecture: frozenset(
            {"name", "d_model", "vocab_size", "seq_len", "layers", "tied_embeddings", "rope_theta", "routing"}
        ),
        GroupedQueryAttention: frozenset({"kind", "n_heads", "n_kv_heads", "head_dim", "qk_norm"}),
        DenseFFN: frozenset({"kind", "d_ff", "gated"}),
        MoEFFN: frozenset({"kind", "n_experts", "top_k", "d_expert", "n_shared_experts", "d_shared_expert", "gated"}),
    }
)
"""Fields that the model honours. A field that is not here must keep its default."""


def check_trainable(architecture: Architecture) -> None:
    """Refuse an architecture with a part that the proxy model does not have.

    Raises:
        InvalidInputError: naming the first such part.
    """
    for where, part in _parts(architecture):
        if part is None or type(part) not in BUILT_FIELDS:
            what = "nothing" if part is None else repr(getattr(part, "kind", type(part).__name__))
            wanted = "mixer of kind 'gqa'" if where.endswith("mixer") else "feed-forward part of kind 'dense' or 'moe'"
            raise InvalidInputError(
                f"{what} cannot be trained as a proxy, only counted", where=where, allowed=f"a {wanted}"
            )
        for name, field in type(part).model_fields.items():
            value, default = getattr(part, name), field.get_default(call_default_factory=True, validated_data={})
            if name not in BUILT_FIELDS[type(part)] and value != default:
                raise InvalidInputError(
                    f"{name} = {value!r} cannot be trained as a proxy, only counted",
                    where=f"{where}.{name}" if where else name,
                    allowed=repr(default),
                    fix=f"{name} = {default!r}",
                )
        if isinstance(part, GroupedQueryAttention) and part.head_dim % 2:
            raise InvalidInputError(
                f"head_dim is {part.head_dim}, but rotary positions turn pairs of numbers",
                where=f"{where}.head_dim",
                allowed="an even number",
                fix=f"head_dim = {part.head_dim + 1}",
            )


def _parts(architecture: Architecture) -> Iterator[tuple[str, Frozen | None]]:
    yield "", architecture
    for number, layer in enumerate(architecture.layers):
        yield f"layers[{number}].mixer", layer.mixer
        yield f"layers[{number}].ffn", layer.ffn
