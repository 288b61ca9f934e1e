"""Python's collector of circular garbage, out of the way of what makes millions of values."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collection inside: what is made stays, and looking through it takes longer than making it.

    Also a decorator. Afterwards the collector is as it was.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def kept() -> Iterator[None]:
    """Inside, no collection looks through the values that were there before: they will stay."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
