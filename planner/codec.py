"""Frozen values to JSON and back, driven by their own type hints.

What a type hint asks for is worked out once, as a function that decodes it. Where a value does not
fit, the containers around it name their step on the way up, so that paths cost nothing until then.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
_Decode = Callable[[Any], Any]
_AS_IT_IS = frozenset((str, int, float, bool, type(None)))


class CodecError(ValueError):
    """JSON that is not the value asked for; the message begins with the path of the field."""


class _Fault(Exception):
    """What does not fit, with the steps to it, innermost first."""

    def __init__(self, message: str, nameless: str = "document") -> None:
        super().__init__(message)
        self.message, self.nameless = message, nameless
        self.steps: list[str] = []

    def at(self, path: str) -> str:
        """The message, behind the path of what it is about; ``nameless`` where that is none."""
        where = "".join([path, *reversed(self.steps)]).lstrip(".")
        return f"{where or self.nameless}: {self.message}"


def encode(value: Any) -> Any:
    """``value`` as what `json.dumps` takes. Fields at their default are left out."""
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if isinstance(value, tuple):
        return [encode(v) for v in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return {name: encode(v) for name, v in stated(value)} if is_dataclass(kind) else value


def stated(value: Any) -> list[tuple[str, Any]]:
    """The fields of a dataclass's value that are not at their default."""
    each = (
        (name, getattr(value, name), default) for name, default in _written(cast(Any, type(value)))
    )
    return [(name, v) for name, v, default in each if v != default]


@cache
def _written(kind: type) -> tuple[tuple[str, Any], ...]:
    """Names and defaults of the fields that are written."""
    return tuple((f.name, f.default) for f in fields(kind) if f.init)


def decode(kind: type[T], data: Any, path: str = "") -> T:
    """The value of type ``kind`` that ``data`` encodes.

    Raises `CodecError` naming the path of the first field that does not fit.
    """
    try:
        return cast(T, _decoder(cast(Any, kind))(data))
    except _Fault as fault:
        raise CodecError(fault.at(path)) from None


@cache
def _decoder(kind: Any) -> _Decode:
    if is_dataclass(kind):
        return _dataclass_decoder(cast(type, kind))
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union_decoder(get_args(kind))
    if origin is tuple:
        items = get_args(kind)
        if len(items) == 2 and items[1] is Ellipsis:
            return _many_decoder(items[0])
        return _row_decoder([_decoder(item) for item in items])
    return _scalar_decoder(kind)


def _dataclass_decoder(kind: type) -> _Decode:
    hints = get_type_hints(kind)
    decoders = {name: _decoder(hints[name]) for name, _ in _written(kind)}

    def decoded(data: Any) -> Any:
        if not isinstance(data, dict):
            raise _wrong(data, kind.__name__)
        if not data.keys() <= decoders.keys():
            fault = _Fault(f"unknown field of {kind.__name__}")
            fault.steps.append(f".{min(data.keys() - decoders.keys())}")
            raise fault
        name, values = "", {}
        try:
            for name, value in data.items():
                values[name] = decoders[name](value)
        except _Fault as fault:
            fault.steps.append(f".{name}")
            raise
        try:
            return kind(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise _Fault(str(error), kind.__name__) from None

    return decoded


def _union_decoder(choices: tuple[Any, ...]) -> _Decode:
    rest = [c for c in choices if c is not type(None)]

    def decoded(data: Any) -> Any:
        if data is None and len(rest) < len(choices):
            return None
        likely = [c for c in rest if _knows(c, data)] or rest  # so the error is of the one meant
        for choice in likely[:-1]:
            try:
                return _decoder(choice)(data)
            except _Fault:
                continue
        return _decoder(likely[-1])(data)

    return decoded


def _knows(kind: Any, data: Any) -> bool:
    names = (name for name, _ in _written(cast(type, kind))) if is_dataclass(kind) else ()
    return isinstance(data, dict) and is_dataclass(kind) and set(data) <= set(names)


def _many_decoder(kind: Any) -> _Decode:
    """A tuple of any length, all of one kind."""
    each = _decoder(kind)

    def decoded(data: Any) -> Any:
        if not isinstance(data, list):
            raise _wrong(data, "list")
        if kind is float and all(type(v) is float and math.isfinite(v) for v in data):
            return tuple(data)
        return _all([each] * len(data), data)

    return decoded


def _row_decoder(each: Sequence[_Decode]) -> _Decode:
    """A tuple of as many as there are kinds."""

    def decoded(data: Any) -> Any:
        if not isinstance(data, list) or len(data) != len(each):
            raise _wrong(data, f"list of {len(each)}")
        return _all(each, data)

    return decoded


def _all(each: Sequence[_Decode], data: list[Any]) -> tuple[Any, ...]:
    made: list[Any] = []
    try:
        for decoded, value in zip(each, data, strict=True):
            made.append(decoded(value))  # its length tells where it fails
    except _Fault as fault:
        fault.steps.append(f"[{len(made)}]")
        raise
    return tuple(made)


def _scalar_decoder(kind: Any) -> _Decode:
    if kind is float:
        return _finite
    if kind is datetime:
        return _instant
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_decoder(kind)

    def decoded(data: Any) -> Any:
        if type(data) is kind and kind in _AS_IT_IS:
            return data
        raise _wrong(data, getattr(kind, "__name__", str(kind)))

    return decoded


def _enum_decoder(kind: type[Enum]) -> _Decode:
    def decoded(data: Any) -> Any:
        try:
            return kind(data)
        except ValueError:
            raise _wrong(data, " | ".join(str(m.value) for m in kind)) from None

    return decoded


def _instant(data: Any) -> datetime:
    if not isinstance(data, str):
        raise _wrong(data, "datetime")
    try:
        return datetime.fromisoformat(data)
    except ValueError:
        raise _wrong(data, "ISO 8601 time") from None


def _finite(data: Any) -> float:
    if not isinstance(data, (int, float)) or isinstance(data, bool):
        raise _wrong(data, "float")
    try:
        value = float(data)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise _wrong(data, "a finite number")
    return value


def _wrong(data: Any, allowed: str) -> _Fault:
    shown = repr(data)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return _Fault(f"found {shown}, allowed: {allowed}")
