"""Looking things up by name: an id, an alias, or an error that says what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UnknownName(ValueError):
    """A name that no catalog knows.

    Attributes: ``kind`` (what was looked for), ``name`` (as given), ``nearest`` (known names that
    look like it, best first, possibly none).
    """

    def __init__(self, kind: str, name: str, nearest: tuple[str, ...]) -> None:
        self.kind, self.name, self.nearest = kind, name, nearest
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        super().__init__(f"unknown {kind} {name!r}{hint}")


def find(kind: str, name: str, ids: Mapping[str, T], aliases: Mapping[str, str]) -> T:
    """The value whose id or alias is ``name``, whatever its case; else `UnknownName`."""
    key = name.strip().lower()
    key = key if key in ids else aliases.get(key, key)
    if key not in ids:
        raise UnknownName(kind, name, nearest(key, (*ids, *aliases)))
    return ids[key]


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three of ``known`` that look like ``name`` or contain it, best first.

    >>> nearest("h100-smx", ["h100-sxm", "l4"])
    ('h100-sxm',)
    """
    names = tuple(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    holding = [n for n in names if name and name in n]
    return tuple(dict.fromkeys((*close, *holding)))[:3]
