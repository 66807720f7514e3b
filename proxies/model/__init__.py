"""The proxy model: a decoder language model with routed experts, built from an ``Architecture``."""

from moe_search.proxies.model.balancing import BALANCING
from moe_search.proxies.model.decoder import DecoderLM, LossOutput, ModelOutput
from moe_search.proxies.model.routers import ROUTERS
from moe_search.proxies.model.routing import RoutingStatistics
from moe_search.proxies.model.trainable import check_trainable
from moe_search.proxies.model.width import REFERENCE_WIDTH, initialise, parameter_groups, seed_of
from moe_search.spaces.architecture import Architecture

__all__ = [
    "BALANCING",
    "REFERENCE_WIDTH",
    "ROUTERS",
    "DecoderLM",
    "LossOutput",
    "ModelOutput",
    "RoutingStatistics",
    "build_model",
    "check_trainable",
    "parameter_groups",
]


def build_model(architecture: Architecture, *, seed: int, backend: str = "auto") -> DecoderLM:
    """Build and initialise a model on the CPU. Equal arguments give equal bits; the global generator is not touched.

    Args:
        architecture: grouped-query attention and dense or routed FFNs.
        seed: every tensor's first values depend on it and on the tensor's name alone.
        backend: backend of the expert kernel (:func:`moe_search.kernels.moe_ffn.moe_ffn`).

    Raises:
        InvalidInputError: a part that can be counted but not trained, or an unknown router or balancing.
    """
    check_trainable(architecture)
    keys = tuple(seed_of(seed, f"layers.{number}.router") for number in range(architecture.n_layers))
    model = DecoderLM(architecture, router_keys=keys, backend=backend)
    initialise(model, seed)
    return model
