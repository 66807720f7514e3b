"""How designs, scales and mixtures are said in one line, the same in the terminal, in MLflow and in plans."""

from collections.abc import Iterable

from moe_search.experiments import numbers
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import Resolved
from moe_search.spaces.schedule import NAMED_SCHEDULES, CapacitySchedule

UNITS = {"bpb": "bits per byte", "loss": "nats per token"}
"""Of the loss columns of a runs table."""


def unit_of(column: str) -> str:
    """Return the unit of a loss column, ``bits per byte (bpb/code)`` where it is not the usual one."""
    usual = UNITS.get(column.partition("/")[0])
    if usual is None:
        return f"units of {column}"
    return usual if column in UNITS else f"{usual} ({column})"


def schedule_name(schedule: CapacitySchedule) -> str:
    """Return the name of a schedule, or its coefficients where it has none."""
    for name, known in NAMED_SCHEDULES.items():
        if known == schedule:
            return name
    parts = {"tilt": schedule.tilt, "bow": schedule.bow, "wave": schedule.wave}
    return " ".join(f"{name} {value:+.2g}" for name, value in parts.items() if value)


def design_words(design: Design) -> str:
    """Return what makes a design: ``G 2.8, A 1/8, 16 experts + 1 shared, pyramid``."""
    if design.ffn == "dense":
        return "dense"
    parts = [f"G {design.granularity:.2g}", f"A {numbers.ratio(design.activation_ratio)}"]
    experts = f"{design.n_experts} experts" if design.n_experts else ""
    shared = f"{design.n_shared_experts} shared" if design.n_shared_experts else ""
    if experts or shared:
        parts.append(" + ".join(part for part in (experts, shared) if part))
    if design.first_dense_layers:
        parts.append(f"{design.first_dense_layers} dense first")
    if design.schedule != NAMED_SCHEDULES["uniform"]:
        parts.append(schedule_name(design.schedule))
    if design.routing.router != "softmax_topk":
        parts.append(f"{design.routing.router} router")
    return ", ".join(parts)


def scale_words(scale: Scale) -> str:
    """Return a scale as ``250K x 400K``: active parameters without embeddings, training tokens."""
    return f"{numbers.count(scale.n_active)} x {numbers.count(scale.tokens)}"


def mixture_words(mixture: Mixture, *, most: int = 3) -> str:
    """Return the largest shares of a mixture: ``code 31%, wiki_en 22%, drama 15%, ...``."""
    shares = sorted(mixture.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{domain} {weight:.0%}" for domain, weight in shares[:most])
    return shown + (", ..." if len(shares) > most else "")


def shape_words(resolved: Resolved) -> str:
    """Return the integers: ``4 x 64, 2 of 16 experts, 88 wide``."""
    architecture = resolved.architecture
    body = f"{architecture.n_layers} x {architecture.d_model}"
    if not architecture.moe_layers:
        return f"{body}, dense"
    moe = architecture.moe_layers[0]
    counts = [ffn.n_experts for ffn in architecture.moe_layers]
    experts = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}-{max(counts)}"
    return f"{body}, {moe.top_k} of {experts} experts, {moe.d_expert} wide"


def counted(number: int, one: str, many: str) -> str:
    """Return ``1 proxy`` or ``2 proxies``."""
    return f"{number:,} {one if number == 1 else many}"


def listed(words: Iterable[str]) -> str:
    """Return ``a, b and c``."""
    items = list(words)
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
