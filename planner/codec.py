"""Frozen values to JSON and back, driven by their own type hints."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


class CodecError(ValueError):
    """JSON that is not the value asked for; the message begins with the path of the field."""


def encode(value: Any) -> Any:
    """``value`` as what `json.dumps` takes. Fields at their default are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: encode(getattr(value, f.name))
            for f in fields(value)
            if f.init and getattr(value, f.name) != f.default
        }
    if isinstance(value, tuple):
        return [encode(v) for v in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def decode(kind: type[T], data: Any, path: str = "") -> T:
    """The value of type ``kind`` that ``data`` encodes.

    Raises `CodecError` naming the path of the first field that does not fit.
    """
    return cast(T, _decode(kind, data, path))


def _decode(kind: Any, data: Any, path: str) -> Any:
    if is_dataclass(kind):
        return _decode_dataclass(cast(type, kind), data, path)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), data, path)
    if origin is tuple:
        return _decode_tuple(get_args(kind), data, path)
    return _decode_scalar(kind, data, path)


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind) if f.init}


def _decode_dataclass(kind: type, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise _wrong(path, data, kind.__name__)
    hints = _hints(kind)
    if unknown := sorted(set(data) - set(hints)):
        raise CodecError(f"{path}.{unknown[0]}: unknown field of {kind.__name__}".lstrip("."))
    values = {
        name: _decode(hints[name], v, f"{path}.{name}".lstrip(".")) for name, v in data.items()
    }
    try:
        return kind(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"{path or kind.__name__}: {error}") from None


def _decode_union(choices: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and type(None) in choices:
        return None
    rest = [c for c in choices if c is not type(None)]
    rest = [c for c in rest if _knows(c, data)] or rest  # so that the error is of the one meant
    for choice in rest[:-1]:
        try:
            return _decode(choice, data, path)
        except CodecError:
            continue
    return _decode(rest[-1], data, path)


def _knows(kind: Any, data: Any) -> bool:
    return (
        is_dataclass(kind) and isinstance(data, dict) and set(data) <= set(_hints(cast(type, kind)))
    )


def _decode_tuple(items: tuple[Any, ...], data: Any, path: str) -> Any:
    if not isinstance(data, list):
        raise _wrong(path, data, "list")
    if len(items) == 2 and items[1] is Ellipsis:
        if items[0] is float and all(type(v) is float and math.isfinite(v) for v in data):
            return tuple(data)
        return tuple(_decode(items[0], v, f"{path}[{i}]") for i, v in enumerate(data))
    if len(data) != len(items):
        raise _wrong(path, data, f"list of {len(items)}")
    pairs = zip(items, data, strict=True)
    return tuple(_decode(kind, v, f"{path}[{i}]") for i, (kind, v) in enumerate(pairs))


def _decode_scalar(kind: Any, data: Any, path: str) -> Any:
    if kind is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        return _finite(data, path)
    if kind in (int, str, bool):
        if type(data) is kind:
            return data
        raise _wrong(path, data, kind.__name__)
    if kind is datetime and isinstance(data, str):
        try:
            return datetime.fromisoformat(data)
        except ValueError:
            raise _wrong(path, data, "ISO 8601 time") from None
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError:
            raise _wrong(path, data, " | ".join(str(m.value) for m in kind)) from None
    raise _wrong(path, data, getattr(kind, "__name__", str(kind)))


def _finite(data: float, path: str) -> float:
    try:
        value = float(data)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise _wrong(path, data, "a finite number")
    return value


def _wrong(path: str, data: Any, allowed: str) -> CodecError:
    shown = repr(data)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return CodecError(f"{path or 'document'}: found {shown}, allowed: {allowed}")
