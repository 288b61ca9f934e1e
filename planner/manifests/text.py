"""Text to raw documents: YAML of several documents, JSON, JSON Lines.

YAML is taken from its events, so nothing is ever built but what JSON has: text, numbers, true,
false, null, lists and mappings. A plain scalar means what YAML 1.2 and JSON say: ``NO`` and ``on``
are text, ``1e21`` is a number, a date is text that its field reads. What is large, deep or a bomb
of aliases is refused while it is read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from planner.manifests.errors import found, plain

MOST_BYTES = 256 * 2**20
MOST_VALUES = 500_000  # of one YAML document, what its aliases repeat included
MOST_ENTRIES = 10_000  # of one list or mapping within a manifest
MOST_DEPTH = 100
MOST_BAD_LINES = 20  # after so many, JSON Lines are no JSON Lines

_NESTED = (dict, list)  # a tuple is looked through faster than a union
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")
_JSON_START = re.compile(r'\s*(\{\s*["}]|\[\s*[\[{\]])')
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands where a document would, had it been one."""

    message: str
    line: int = 0  # from 1; 0: not known
    column: int = 0


class _DuplicateKeyError(ValueError):
    """JSON with a key twice in one object."""


class _RefusedError(yaml.MarkedYAMLError):
    """YAML that is well formed, and yet not taken."""


def documents(data: bytes, suffix: str) -> Iterator[object]:
    """What a file holds, in order: raw documents, and an `Unreadable` in place of a broken one.

    ``suffix`` (``.json``, ``.jsonl``, …) picks the format; others are told from the first letters.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return iter([Unreadable(f"not UTF-8 text at byte {error.start}")])
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(text)
    if suffix == ".json" or (suffix not in (".yaml", ".yml") and _JSON_START.match(text)):
        return _json_values(text)
    return _yaml_documents(text)


def oversized(raw: object) -> str:
    """Why a document is too much to check, or empty."""
    level = [raw]
    for _ in range(MOST_DEPTH):
        inner = [value for value in level if isinstance(value, _NESTED)]
        if any(len(value) > MOST_ENTRIES for value in inner):
            return f"a list or mapping of more than {MOST_ENTRIES} entries"
        level = [each for v in inner for each in (v.values() if isinstance(v, dict) else v)]
        if not level:
            return ""
    return f"nested deeper than {MOST_DEPTH}"


def scalar(text: str) -> object:
    """What a plain YAML scalar means.

    >>> scalar("NO"), scalar("1e21"), scalar("8"), scalar("true"), scalar("010"), scalar("~")
    ('NO', 1e+21, 8, True, '010', None)
    """
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 400 or text[0] not in "-+.0123456789":
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _yaml_documents(text: str) -> Iterator[object]:
    try:
        yield from _Yaml(text).documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        what = "" if isinstance(error, _RefusedError) else "not YAML: "
        yield Unreadable(f"{what}{plain(str(error.problem))[:100]}", line, column)
    except yaml.YAMLError as error:
        reason = plain(str(getattr(error, "reason", "unreadable")))[:100]
        yield Unreadable(f"not YAML: {reason}")


class _Yaml:
    """One pass over the events of a text."""

    def __init__(self, text: str) -> None:
        self.events = yaml.parse(text, Loader=_LOADER)
        self.anchors: dict[str, tuple[object, int]] = {}  # value, and how many values it holds
        self.values = 0

    def documents(self) -> Iterator[object]:
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors, self.values = {}, 0
                yield self.value(next(self.events), 0)

    def value(self, event: yaml.Event, depth: int) -> object:
        before = self.values
        self.count(1, event)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if isinstance(event, yaml.ScalarEvent):
            built = self.scalar(event)
        elif depth == MOST_DEPTH:
            raise _refused(f"nested deeper than {MOST_DEPTH}", event)
        elif isinstance(event, yaml.MappingStartEvent):
            built = self.mapping(event, depth + 1)
        else:
            built = self.sequence(event, depth + 1)
        if anchor := getattr(event, "anchor", None):
            self.anchors[anchor] = built, self.values - before
        return built

    def count(self, values: int, event: yaml.Event) -> None:
        self.values += values
        if self.values > MOST_VALUES:
            raise _refused(f"a document of more than {MOST_VALUES} values", event)

    def alias(self, event: yaml.AliasEvent) -> object:
        if event.anchor not in self.anchors:
            raise _refused(f"alias {found(event.anchor)} of nothing before it", event)
        built, values = self.anchors[event.anchor]
        self.count(values, event)
        return built

    def scalar(self, event: yaml.ScalarEvent) -> object:
        self.untagged(event)
        return scalar(event.value) if event.implicit[0] else event.value

    def mapping(self, start: yaml.Event, depth: int) -> dict[str, object]:
        self.untagged(start)
        built: dict[str, object] = {}
        while not isinstance(key := next(self.events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise _refused("a key that is not text", key)
            if key.value in built:
                raise _refused(f"duplicate key {found(key.value)}", key)
            if len(built) == MOST_ENTRIES:
                raise _refused(f"a mapping of more than {MOST_ENTRIES} entries", key)
            built[key.value] = self.value(next(self.events), depth)
        return built

    def sequence(self, start: yaml.Event, depth: int) -> list[object]:
        self.untagged(start)
        built: list[object] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            built.append(self.value(event, depth))
        return built

    def untagged(self, event: yaml.Event) -> None:
        tag = getattr(event, "tag", None)
        if tag not in _TEXT_TAGS:
            raise _refused(f"tag {found(tag)}, which is not taken", event)


def _refused(problem: str, event: Any) -> _RefusedError:
    return _RefusedError(problem=problem, problem_mark=event.start_mark)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    built = dict(pairs)
    if len(built) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _DuplicateKeyError(f"duplicate key {found(counts.most_common(1)[0][0])}")
    return built


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _json_value(text: str, at: int = 0) -> tuple[object, int]:
    """The value at ``at`` and where it ends; an `Unreadable` ends the text."""
    try:
        value, end = _DECODER.raw_decode(text, at)
        if _SURROGATE.search(text, at, end):
            json.dumps(value, ensure_ascii=False).encode()
        return value, end
    except json.JSONDecodeError as error:
        return Unreadable(f"not JSON: {error.msg}", error.lineno, error.colno), len(text)
    except _DuplicateKeyError as error:
        return Unreadable(str(error)), len(text)
    except RecursionError:
        return Unreadable(f"nested deeper than {MOST_DEPTH}"), len(text)
    except UnicodeEncodeError:
        return Unreadable("half of a surrogate pair, which is no character"), len(text)
    except ValueError:
        return Unreadable("a number of too many digits"), len(text)


def _json_values(text: str) -> Iterator[object]:
    text = text.rstrip()
    at = 0
    while at < len(text):
        value, at = _json_value(text, _SPACE.match(text, at).end())  # type: ignore[union-attr]  # the pattern matches nothing as well
        yield value


def _json_lines(text: str) -> Iterator[object]:
    bad = 0
    for number, line in enumerate(_lines(text), start=1):
        if line:
            value = _json_line(line, number)
            yield value
            bad += isinstance(value, Unreadable)
        if bad == MOST_BAD_LINES:
            return


def _lines(text: str) -> Iterator[str]:
    """One at a time: a list of them would hold the text twice."""
    begin = 0
    while (end := text.find("\n", begin)) >= 0:
        yield text[begin:end].strip()
        begin = end + 1
    yield text[begin:].strip()


def _json_line(line: str, number: int) -> object:
    value, end = _json_value(line)
    if isinstance(value, Unreadable):
        return replace(value, line=number)
    if end < len(line):
        return Unreadable("not JSON: more after the value", number, end + 1)
    return value
