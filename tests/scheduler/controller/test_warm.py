"""What decides is compiled once it is warm: another process that decides has nothing to compile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import gc
from numba.core.dispatcher import Dispatcher
from scheduler.controller.warm import warm

def compiled():
    ours = [f for f in gc.get_objects() if isinstance(f, Dispatcher)]
    return {(f.py_func.__module__, f.py_func.__name__): len(f.signatures) for f in ours}

before = compiled()
warm()
warmed = compiled()
from tests.scheduler.controller.play import Player, queue, world
from tests.scheduler.controller.test_planned import CHEAP, ROW, gang, moving, plan, tell
play = Player(world(ROW, CHEAP, queues=[queue("q", limit={"row": 16})]))
play.run(gang("a", 2, 3.0, queue="q"))
play.arrive(gang("b", 2, 3.0, queue="q"))
play.arrive(moving("c", 2.0))
tell(play, plan(), 0.5)
play.pass_time(8.0)
print(sum(warmed.values()) - sum(before.values()), {
    name: count for name, count in compiled().items() if count != warmed.get(name, 0)
})
"""


def test_what_decides_has_nothing_left_to_compile_once_it_is_warm() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout.split(maxsplit=1)
    assert int(said[0]) >= 4  # it is what compiles
    assert said[1].strip() == "{}"
