"""Fleet scale: a bound by Lagrangian ascent and a plan by search, over arrays.

`planner.solve.fleet.solve` is the way in; `docs/planner.md` shows the method.
"""
