"""What pydantic found, in the words of the person who wrote the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cost_models.names import UnknownName, nearest
from planner.manifests.errors import Fault, found

MOST_FAULTS = 25  # of one document

_ALLOWED = {
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "{ge:.12g} or more",
    "less_than": "below {lt:.12g}",
    "less_than_equal": "{le:.12g} or less",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} character(s)",
    "too_long": "at most {max_length} entries",
    "too_short": "at least {min_length} entry",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "enum": "{expected}",
    "literal_error": "{expected}",
}
_PATTERNS = {
    "[a-z0-9]": "lower-case letters, digits, '-' and '.', as DNS-1123 has it",
    "g\\.": "a MIG profile such as 3g.40gb",
    "[A-Z]{2}": "two capital letters, such as US or EU",
}


def faults(model: type[BaseModel], error: ValidationError, place: str) -> list[Fault]:
    """A fault for each thing wrong with a document; beyond a couple of dozen, how many more."""
    details = error.errors(include_url=False)
    told = [_fault(model, detail, place) for detail in details[:MOST_FAULTS]]
    if more := len(details) - len(told):
        told.append(Fault(place=place, message=f"and {more} more errors"))
    return told


def _fault(model: type[BaseModel], detail: ErrorDetails, place: str) -> Fault:
    loc = [step for step in detail["loc"] if step != "[key]"]
    up = detail.get("ctx", {}).get("up", 0)
    return Fault(place=place, path=path(loc[: len(loc) - up]), message=_message(model, detail, loc))


def path(loc: Sequence[int | str]) -> str:
    """A field's path as people write it.

    >>> path(["spec", "availability", 0, "from"])
    'spec.availability[0].from'
    """
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{_short(step)}" for step in loc)
    return steps.removeprefix(".")


def _short(step: str) -> str:
    return found(step)[1:-1]


def _message(model: type[BaseModel], detail: ErrorDetails, loc: Sequence[int | str]) -> str:
    context: dict[str, Any] = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_field(model, loc)
        case "missing":
            return "found nothing, and it is required"
        case "rule":
            return detail["msg"]
        case "value_error":
            return _unknown_name(context["error"])
        case kind:
            return f"found {found(detail['input'])}, allowed: {_allowed(kind, context, detail)}"


def _allowed(kind: str, context: dict[str, Any], detail: ErrorDetails) -> str:
    if kind == "string_pattern_mismatch":
        return next(text for mark, text in _PATTERNS.items() if mark in context["pattern"])
    if kind in _ALLOWED:
        return _ALLOWED[kind].format(**context).replace("'", "")
    return detail["msg"]


def _unknown_name(error: Exception) -> str:
    if not isinstance(error, UnknownName):
        return str(error)
    near = f", nearest: {', '.join(error.nearest)}" if error.nearest else ""
    return f"found {found(error.name)}, which is no known {error.kind}{near}"


def _unknown_field(model: type[BaseModel], loc: Sequence[int | str]) -> str:
    fields = _fields(model, loc[:-1])
    near = nearest(str(loc[-1])[:100], fields)
    if near:
        return f"unknown field, nearest: {', '.join(near)}"
    return f"unknown field, allowed: {', '.join(fields)}"


def _fields(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Names that a file may use in the part of ``model`` at ``loc``."""
    for step in loc:
        inner = [f.annotation for f in model.model_fields.values() if f.alias == step]
        model = _part(inner[0]) or model if inner else model
    return [field.alias or name for name, field in model.model_fields.items()]


def _part(annotation: object) -> type[BaseModel] | None:
    """The model that an annotation holds, as ``X | None`` or ``tuple[X, ...]`` do."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_part, get_args(annotation))), None)
