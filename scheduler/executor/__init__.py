"""Starts, watches and stops the planned jobs on Ray.

Look, decide, act: `ray_jobs` and `local_ray` are the doors to Ray, `journal` remembers across a
kill of the executor, `decide` is pure, and `executor` is the thin loop around the three.
"""
