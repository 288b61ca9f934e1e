"""Loops over arrays, compiled to machine code on their first call and kept.

The door to Numba. A compiled function takes numbers and arrays, touches no Python object and lets
go of the interpreter's lock, so that two threads may run it at once.

What is compiled is kept in the user's cache folder, by the text of all modules that compile: code
of one module is compiled into callers in others, and Numba by itself would keep a caller whose
callee has changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def _cache_folder() -> Path:
    """A folder for the machine code of just these sources."""
    here = Path(__file__).parent
    texts = (path.read_bytes() for path in sorted(here.rglob("*.py")))
    digest = hashlib.sha256(b"".join(t for t in texts if b"planner.compiled" in t)).hexdigest()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "flopwise" / f"compiled-{digest[:16]}"


_settings: Any = numba.config
if not os.environ.get("NUMBA_CACHE_DIR"):
    _settings.CACHE_DIR = str(_cache_folder())


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
