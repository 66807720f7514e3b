"""An architecture from whatever names one: a published model, a Hugging Face config.json, or a file of ours."""

from difflib import get_close_matches
from pathlib import Path

from moe_search.experiments.spec.document import Document
from moe_search.experiments.spec.loading import validated
from moe_search.proxies.corpus.config import CorpusConfig
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.spaces.architecture import Architecture
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.huggingface import architecture_from_config
from moe_search.spaces.presets import published, published_names
from moe_search.spaces.resolve import Resolved, resolve
from moe_search.spaces.rules import ShapeRules


class Single(Frozen):
    """A model of ours in a file: what is chosen, how big, how integers are made of it; ``train`` reads the rest too."""

    design: Design
    scale: Scale
    rules: ShapeRules = ShapeRules()
    corpus: CorpusConfig = CorpusConfig()
    training: TrainingRecipe = TrainingRecipe()

    def resolve(self) -> Resolved:
        """Return the integers."""
        return resolve(self.design, self.scale, self.rules)


def find_architecture(name: str) -> Architecture:
    """Return the architecture that ``name`` stands for.

    Args:
        name: a published model (``Qwen3-30B-A3B``), or a file: a Hugging Face ``config.json``, an ``architecture.json``
            of ours, a ``recommendation.json``, or YAML/JSON with ``design``, ``scale`` and ``rules``. A folder stands
            for the ``config.json`` or ``architecture.json`` in it.

    Raises:
        InvalidInputError: no such model or file, or an impossible architecture.
    """
    path = Path(name)
    if path.is_dir():
        inside = [path / file for file in ("architecture.json", "config.json") if (path / file).exists()]
        if not inside:
            raise InvalidInputError(f"no architecture in {path}", allowed="an architecture.json or a config.json in it")
        path = inside[0]
    if path.exists():
        return _from_file(path)
    if name in published_names():
        return published(name)
    lower = {known.lower(): known for known in published_names()}
    if name.lower() in lower:
        return published(lower[name.lower()])
    if path.suffix in {".json", ".yaml", ".yml"}:
        raise InvalidInputError(f"no such file: {path}")
    close = get_close_matches(name.lower(), lower, n=1, cutoff=0.0)[0]
    raise InvalidInputError(
        f"{name!r} is neither a file nor a published model",
        allowed="moe-search count --list names the models",
        fix=lower[close],
    )


def _from_file(path: Path) -> Architecture:
    document = Document.read(path)
    data = document.data
    if "design" in data and "layers" not in data:
        return validated(Single, document).resolve().architecture
    if "layers" in data:
        return validated(Architecture, document)
    if isinstance(data.get("best"), dict) and "architecture" in data["best"]:
        return Architecture.model_validate(data["best"]["architecture"])
    if "model_type" in data or "architectures" in data:
        return architecture_from_config(data)
    raise InvalidInputError(
        f"{path} is no architecture",
        allowed="a Hugging Face config.json (has model_type), an architecture (has layers), or design + scale + rules",
    )
