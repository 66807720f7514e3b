"""From pydantic's list of errors to one sentence: the place, the field, what is allowed, the nearest fix."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from moe_search.experiments.spec.document import Document, Location
from moe_search.spaces.errors import InvalidInputError

_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_KINDS = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
}


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> InvalidInputError:
    """Return the one error that helps most, as a sentence about the user's file.

    A union of forms reports the complaints of every form; the deepest place in the file says which form was meant.

    Args:
        error: what ``model`` said about ``document.data``.
        document: the data with its lines.
        model: the class that was validated; its fields are the allowed names.
    """
    details = error.errors(include_url=False)
    best = max(
        details, key=lambda detail: (_is_unknown_key(detail), len(document.fields(detail["loc"])), _is_ours(detail))
    )
    same_place = [detail for detail in details if document.fields(detail["loc"]) == document.fields(best["loc"])]
    others = len({document.fields(detail["loc"]) for detail in details}) - 1
    explained = _one(best, same_place, document, model)
    if others > 0:
        explained.what += f" (and {others} more error{'s' if others > 1 else ''})"
    return InvalidInputError(explained.what, where=explained.where, allowed=explained.allowed, fix=explained.fix)


def relocate(error: InvalidInputError, location: Location, document: Document) -> InvalidInputError:
    """Return a validator's own error with the line of the field it names, below ``location`` in the document."""
    named = tuple(part for part in error.where.split(".") if part)
    return InvalidInputError(
        error.what, where=document.where((*location, *named)), allowed=error.allowed, fix=error.fix
    )


def _is_ours(detail: ErrorDetails) -> bool:
    return isinstance(detail.get("ctx", {}).get("error"), InvalidInputError)


def _is_unknown_key(detail: ErrorDetails) -> bool:
    return detail["type"] == "extra_forbidden"


def _one(
    detail: ErrorDetails, same_place: list[ErrorDetails], document: Document, model: type[BaseModel]
) -> InvalidInputError:
    location, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    where, written = document.where(location), document.fields(location)
    if _is_ours(detail):
        return relocate(context["error"], location, document)
    if kind == "extra_forbidden":
        return _unknown_key(location, where, model)
    if kind == "missing":
        here = f"{where}.{location[-1]}" if written else f"{where}: {location[-1]}"
        return InvalidInputError("the field is missing", where=here, fix=f"add '{location[-1]}:' with its value")
    name, value = written[-1] if written else "the file", detail["input"]
    is_plain = isinstance(value, str | int | float | bool | None)
    what = f"{name} is {repr(value) if is_plain else 'a ' + _shape(value)}"
    allowed, fix = _allowed(detail, same_place, name, model)
    return InvalidInputError(what if allowed else f"{what}: {detail['msg']}", where=where, allowed=allowed, fix=fix)


def _allowed(
    detail: ErrorDetails, same_place: list[ErrorDetails], name: str, model: type[BaseModel]
) -> tuple[str, str]:
    """Return what a field may hold, and the nearest of it to what it holds; empty where pydantic says it best."""
    context, value = detail.get("ctx", {}), detail["input"]
    rule = next((rule for rule in _BOUNDS if rule in context), None)
    if rule is not None:
        limit = context[rule]
        is_open = rule in {"gt", "lt"}
        nearest = limit + (1 if rule == "gt" else -1) if is_open and isinstance(value, int) else limit
        has_nearest = not is_open or isinstance(value, int)
        allowed = _range(detail["loc"], model) or f"{_BOUNDS[rule]} {limit}"
        return allowed, f"{name} = {nearest}" if has_nearest else f"a number {_BOUNDS[rule]} {limit}"
    if detail["type"] in {"literal_error", "enum"}:
        choices = [choice.strip("'") for choice in context["expected"].replace(" or ", ", ").split(", ")]
        return ", ".join(choices), get_close_matches(str(value), choices, n=1, cutoff=0.0)[0]
    forms = dict.fromkeys(_KINDS[other["type"]] for other in same_place if other["type"] in _KINDS)
    if "fixed" in detail["loc"]:  # a knob of the space, told by its shape
        forms |= dict.fromkeys(("{choices: [...]}", "{low: ..., high: ...}"))
    return " or ".join(forms), ""


def _shape(value: object) -> str:
    return "list" if isinstance(value, list | tuple) else "mapping" if isinstance(value, dict) else type(value).__name__


def _unknown_key(location: Location, where: str, model: type[BaseModel]) -> InvalidInputError:
    key = str(location[-1])
    names = sorted({name for owner in _models_at(location[:-1], model) for name in _fields(owner)})
    close = get_close_matches(key, names, n=1, cutoff=0.5)
    elsewhere = [path for path in _all_fields(model) if path.rpartition(".")[2] == key]
    fix = f"it belongs to {elsewhere[0]}" if elsewhere else f"did you mean {close[0]}?" if close else "remove it"
    return InvalidInputError(f"unknown key {key!r}", where=where, allowed=", ".join(names), fix=fix)


def _range(location: Location, model: type[BaseModel]) -> str:
    """Return the whole allowed range of a numeric field, such as ``1 <= top_k <= 64``."""
    name = str(location[-1])
    for owner in _models_at(location[:-1], model):
        if name in _fields(owner):
            field = _fields(owner)[name]
            rules = [*field.metadata, *_metadata_in(field.annotation)]
            bounds = {bound: getattr(rule, bound) for rule in rules for bound in _BOUNDS if hasattr(rule, bound)}
            low = [f"{bounds[bound]} {sign}" for bound, sign in (("ge", "<="), ("gt", "<")) if bound in bounds]
            high = [f"{sign} {bounds[bound]}" for bound, sign in (("le", "<="), ("lt", "<")) if bound in bounds]
            return " ".join([*low[:1], name, *high[:1]]) if low or high else ""
    return ""


def _metadata_in(annotation: Any) -> Iterator[Any]:
    """Yield the metadata of every ``Annotated`` in an annotation, such as that of ``PositiveInt | None``."""
    if get_origin(annotation) is Annotated:
        yield from get_args(annotation)[1:]
    for argument in get_args(annotation):
        yield from _metadata_in(argument)


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a class under the names that a file uses."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_at(location: Location, model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the classes that the data at ``location`` may be, following fields and the members of unions."""
    here = [model]
    for part in location:
        annotations = [_fields(owner)[str(part)].annotation for owner in here if str(part) in _fields(owner)]
        if annotations:
            here = [found for annotation in annotations for found in _models_in(annotation)]
        elif any(owner.__name__ == part for owner in here):
            here = [owner for owner in here if owner.__name__ == part]
    return here


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models named anywhere in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if issubclass(annotation, RootModel):
            yield from _models_in(annotation.model_fields["root"].annotation)
        else:
            yield annotation
    elif get_origin(annotation) in {Union, UnionType, Annotated, tuple, list, dict, Mapping}:
        for argument in get_args(annotation):
            yield from _models_in(argument)


def _all_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in _fields(model).items():
        yield prefix + name
        for inner in _models_in(field.annotation):
            if inner is not model:
                yield from _all_fields(inner, f"{prefix}{name}.")
