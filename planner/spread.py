"""Work on arrays that is too large for one machine: a share of them with each worker of a Ray.

Each actor holds its share for as long as the workers live, and answers with a pure function of the
share and of what is asked, so that little travels: for pricing, a share is some of the jobs, what
is asked are prices, and the answers in the order of the shares are those of one machine, number by
number. Shares and answers are our own arrays; nothing that others wrote goes this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Generic, TypeVar

from planner.scenarios import Ray, ScenarioError, connected, last_line

Share = TypeVar("Share")
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

START_SECONDS = 120.0  # of the actors, and of what they load


def shares(count: int, parts: int) -> list[tuple[int, int]]:
    """``count`` things in at most ``parts`` stretches (begin, end) of nearly one length.

    >>> shares(7, 3)
    [(0, 3), (3, 5), (5, 7)]
    """
    parts = max(1, min(count, parts))
    edges = [-(-i * count // parts) for i in range(parts + 1)]
    return [(a, b) for a, b in pairwise(edges) if a < b]


class Workers(Generic[Share, Asked, Answer]):
    """Actors that each hold a share. Made by `workers`."""

    def __init__(
        self, library: Any, function: Callable[[Share, Asked], Answer], held: Sequence[Share]
    ) -> None:
        self.library = library
        actor = library.remote(num_cpus=1)(_Holder)
        self.actors = [actor.remote(function, share) for share in held]

    def ask(self, asked: Asked, *, seconds: float) -> list[Answer]:
        """The answer of each share, in their order.

        Raises `ScenarioError` where one is not there after ``seconds``, or its worker is lost.
        """
        once = self.library.put(asked)
        answers = [actor.answer.remote(once) for actor in self.actors]
        try:
            return list(self.library.get(answers, timeout=seconds))
        except self.library.exceptions.GetTimeoutError:
            raise ScenarioError(f"Ray: no answer within {seconds:.0f} s") from None
        except self.library.exceptions.RayError as error:
            raise ScenarioError(f"Ray: {last_line(error)}") from None


class _Holder:
    """What lives on a worker: a share, and the function that answers for it."""

    def __init__(self, function: Callable[[Any, Any], Any], share: Any) -> None:
        self.function, self.share = function, share

    def answer(self, asked: Any) -> Any:
        """The function's answer."""
        return self.function(self.share, asked)

    def ready(self) -> bool:
        """Whether it has its share."""
        return True


@contextmanager
def workers(
    ray: Ray, function: Callable[[Share, Asked], Answer], split: Callable[[int], Sequence[Share]]
) -> Iterator[Workers[Share, Asked, Answer]]:
    """Workers on ``ray``, one for each of its CPUs, until this ends.

    ``split`` makes so many shares, or fewer; ``function`` is one that a module defines, so that a
    worker finds it by its name. Raises `ScenarioError` where they do not start.
    """
    with connected(ray) as library:
        cpus = int(library.cluster_resources().get("CPU", 1))
        made = Workers(library, function, split(max(1, cpus)))
        try:
            library.get([a.ready.remote() for a in made.actors], timeout=START_SECONDS)
        except (library.exceptions.GetTimeoutError, library.exceptions.RayError) as error:
            raise ScenarioError(f"Ray: its workers did not start: {last_line(error)}") from None
        try:
            yield made
        finally:
            for actor in made.actors:
                library.kill(actor)
