"""``python -m tests.compile``: the planner's loops are compiled once, before each worker would.

What is compiled already is found again in a second; see `planner.compiled`.
"""

from __future__ import annotations

from tests.planner import test_fleet, test_live, test_outlook
from tests.planner.worlds import larger_problem


def main() -> None:
    """Calls what calls nearly all of them."""
    test_fleet.fleet_plan(test_fleet.fleet(1))
    for seed in range(3):
        test_live.filled(larger_problem(seed))
    test_outlook.test_all_known_fills_the_fleet_that_one_at_a_time_does_not()


if __name__ == "__main__":
    main()
