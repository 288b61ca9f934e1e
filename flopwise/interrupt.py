"""Work that Ctrl-C ends with what it has, and a second Ctrl-C at once.

A solver library may take SIGINT for itself while it searches. So the signal is blocked, for the
threads of the work too, and asked for; threads that a library started before take it to a handler.
The first one asks the work to stop, the second leaves while its thread goes on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import NoReturn, TypeVar

T = TypeVar("T")
ASK_SECONDS = 0.05


def interruptible(
    work: Callable[[], T], *, stop: Callable[[], None], tick: Callable[[], None] = lambda: None
) -> T:
    """``work()``, done in a thread. Main thread only.

    Once Ctrl-C is pressed ``stop`` is called, again and again until the work ends; at the second
    one this raises KeyboardInterrupt. ``tick`` is called 20 times a second.
    """
    answer: Future[T] = Future()
    presses: list[int] = []
    handled = signal.signal(signal.SIGINT, lambda number, _: presses.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        Thread(target=_fill, args=(answer, work), daemon=True).start()
        while True:
            if wait([answer], timeout=ASK_SECONDS).done:
                return answer.result()
            if signal.SIGINT in signal.sigpending():
                presses.append(signal.sigwait({signal.SIGINT}))
            if len(presses) > 1:
                raise KeyboardInterrupt
            if presses:
                stop()
            tick()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handled)


def leave(code: int) -> NoReturn:
    """End the process at once: a solver's threads may run on, and C++ aborts at an exit then."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fill(answer: Future[T], work: Callable[[], T]) -> None:
    try:
        answer.set_result(work())
    except BaseException as error:  # noqa: BLE001  # it is raised again where it is awaited
        answer.set_exception(error)
