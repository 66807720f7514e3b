"""From a path and ``--set`` settings to a validated specification, and back to the resolved copy."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.document import Document
from moe_search.experiments.spec.explaining import explain, relocate
from moe_search.spaces.errors import InvalidInputError

SPEC_FILE = "campaign.yaml"


def load_spec(path: Path, settings: Sequence[str] = ()) -> Spec:
    """Read and validate a campaign's specification.

    Args:
        path: the YAML file, or a folder with a ``campaign.yaml`` (a campaign's own folder has the resolved copy).
        settings: dotted overrides such as ``budget.max_minutes=5``; the values are YAML.

    Raises:
        InvalidInputError: what is wrong, with file, line, field, what is allowed and the nearest fix.
    """
    if path.is_dir():
        if not (path / SPEC_FILE).exists():
            raise InvalidInputError(f"there is no {SPEC_FILE} in {path}", fix=f"moe-search init {path}")
        path = path / SPEC_FILE
    document = Document.read(path).override(settings)
    try:
        return Spec.model_validate(document.data)
    except ValidationError as error:
        raise explain(error, document, Spec) from None
    except InvalidInputError as error:
        raise relocate(error, (), document) from None


def resolved_text(spec: Spec, source: str) -> str:
    """Return the specification with every default written out, as YAML.

    Args:
        spec: what is written; paths become absolute, so that the copy works from everywhere.
        source: the command that made it, for the comment on top.
    """
    data = spec.model_dump(mode="json")
    data["folder"] = str(spec.folder.resolve())
    if isinstance(spec.corpus.source, dict):
        data["corpus"]["source"] = {
            domain: [str(Path(path).resolve()) for path in paths] for domain, paths in spec.corpus.source.items()
        }
    head = f"# The resolved specification of this campaign: every default written out. Made by: {source}\n"
    return head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
