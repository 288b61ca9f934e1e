"""Loops over arrays, compiled to machine code on their first call and kept beside their source.

The door to Numba. A compiled function takes numbers and arrays, touches no Python object and lets
go of the interpreter's lock, so that two threads may run it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


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
