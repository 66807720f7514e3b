"""From a path and ``--set`` settings to a validated specification, and back to the resolved copy."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.document import Document
from moe_search.experiments.spec.explaining import explain, relocate
from moe_search.search.redacting import redacted
from moe_search.spaces.errors import InvalidInputError

SPEC_FILE = "campaign.yaml"
Model = TypeVar("Model", bound=BaseModel)


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
    return _absolute(validated(Spec, Document.read(path), settings))


def validated(model: type[Model], document: Document, settings: Sequence[str] = ()) -> Model:
    """Return ``document`` with ``settings`` on top as a ``model``.

    Raises:
        InvalidInputError: what is wrong, at its line, or at the setting without which it would not be.
    """
    outcome = _outcome(model, document.override(settings))
    if not isinstance(outcome, InvalidInputError):
        return outcome
    if not outcome.where.startswith("--set"):
        for count in range(len(settings) + 1):
            earlier = _outcome(model, document.override(settings[:count]))
            if isinstance(earlier, InvalidInputError) and earlier.what == outcome.what:
                if count:
                    name = settings[count - 1].partition("=")[0].strip()
                    raise InvalidInputError(
                        outcome.what, where=f"--set {name}", allowed=outcome.allowed, fix=outcome.fix
                    )
                break
    raise outcome


def _outcome(model: type[Model], document: Document) -> Model | InvalidInputError:
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        return explain(error, document, model)
    except InvalidInputError as error:
        return relocate(error, (), document)


def _absolute(spec: Spec) -> Spec:
    """Return ``spec`` with absolute paths: the same campaign from whatever directory a command is started in."""
    corpus = spec.corpus
    if isinstance(corpus.source, dict):
        source = {
            domain: tuple(str(Path(path).expanduser().absolute()) for path in paths)
            for domain, paths in corpus.source.items()
        }
        corpus = corpus.replace(source=source)
    return spec.replace(folder=spec.folder.expanduser().absolute(), corpus=corpus)


def shown(path: Path) -> str:
    """Return a path as a person would type it here: relative where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def resolved_text(spec: Spec, source: str) -> str:
    """Return the specification with every default written out, as YAML.

    Args:
        spec: what is written; its paths are absolute, so that the copy works from everywhere.
        source: the command that made it, for the comment on top.
    """
    data = spec.model_dump(mode="json")
    head = f"# The resolved specification of this campaign: every default written out. Made by: {redacted(source)}\n"
    return head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
