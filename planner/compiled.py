"""Loops over arrays, compiled to machine code on their first call and kept.

The door to Numba. A compiled function takes numbers and arrays, touches no Python object and lets
go of the interpreter's lock, so that two threads may run it at once.

What is compiled is kept in the user's cache folder, by the text of all modules that compile: code
of one module is compiled into callers in others, and Numba by itself would keep a caller whose
callee has changed. The text alone counts: Numba by itself would compile all of it again, half a
minute, wherever the same files lie in another folder or were written anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
from numba.core import caching

P = ParamSpec("P")
R = TypeVar("R")


_HERE = Path(__file__).parent


def _texts() -> str:
    """The hash of all modules here that compile."""
    texts = (path.read_bytes() for path in sorted(_HERE.rglob("*.py")))
    return hashlib.sha256(b"".join(t for t in texts if b"planner.compiled" in t)).hexdigest()[:16]


_TEXTS = _texts()


class KeptByText(caching.UserProvidedCacheLocator):
    """Where Numba keeps the machine code of our functions, and what it must not be older than."""

    def __init__(self, function: Callable[..., object], file: str) -> None:
        super().__init__(function, file)  # type: ignore[no-untyped-call]  # Numba has no types
        self._module = function.__module__

    @classmethod
    def from_function(cls, function: Callable[..., object], file: str) -> Any:
        """A locator; None for what is not ours, so that Numba asks the next."""
        if not Path(file).is_relative_to(_HERE):
            return None
        return super().from_function(function, file)  # type: ignore[no-untyped-call]  # as above

    def get_cache_path(self) -> str:
        """A folder for each module."""
        return str(Path(_settings.CACHE_DIR) / self._module)

    def get_source_stamp(self) -> str:
        """What is kept with another is compiled anew."""
        return _TEXTS


_settings: Any = numba.config
if not os.environ.get("NUMBA_CACHE_DIR"):
    _home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    _settings.CACHE_DIR = str(Path(_home) / "flopwise" / f"compiled-{_TEXTS}")
if not os.environ.get("NUMBA_CACHE_LOCATOR_CLASSES"):
    # Where that folder cannot be written, Numba's own ways.
    _settings.CACHE_LOCATOR_CLASSES = (
        f"{__name__}.{KeptByText.__name__},InTreeCacheLocator,UserWideCacheLocator"
    )


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` compiled for the types it is first called with; the compilation is kept."""
    made: Callable[P, R] = numba.njit(cache=True, nogil=True)(function)
    return made


def lean(function: Callable[P, R]) -> Callable[P, R]:
    """The same for one that makes no array: it does without counting who holds those it is given.

    That counting takes most of the time of a small function over many arrays.
    """
    options: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}
    made: Callable[P, R] = numba.njit(**options)(function)
    return made
