"""How long work takes on nodes that are taken away."""

from __future__ import annotations

import math


def expected_hours(
    hours: float,
    *,
    interruptions_per_hour: float,
    checkpoint_seconds: float,
    save_seconds: float,
    restart_seconds: float,
) -> float:
    """Expected hours of wall clock for ``hours`` of work under Poisson interruptions.

    Work is done in stretches of ``checkpoint_seconds``, each followed by a save; an interruption
    throws away the stretch and costs a restart. Without checkpoints (0) the whole run is one
    stretch. This is the complete model of J. T. Daly, *A higher order estimate of the optimum
    checkpoint interval for restart dumps*, Future Generation Computer Systems 22 (2006), eq. 20:
    ``M exp(R / M) (exp((tau + delta) / M) - 1) T / tau``, M the mean time between interruptions.

    >>> round(expected_hours(10, interruptions_per_hour=0, checkpoint_seconds=3600,
    ...                      save_seconds=60, restart_seconds=300), 4)  # 10 saves of a minute
    10.1667
    >>> round(expected_hours(10, interruptions_per_hour=0.1, checkpoint_seconds=3600,
    ...                      save_seconds=0, restart_seconds=0), 4)  # 10 * 10 * (exp(0.1) - 1)
    10.5171
    """
    save = save_seconds / 3600
    stretch = min(hours, checkpoint_seconds / 3600) if checkpoint_seconds else hours
    if stretch <= 0:
        return hours
    if not checkpoint_seconds:
        save = 0.0
    if interruptions_per_hour <= 0:
        return hours * (stretch + save) / stretch
    mean = 1 / interruptions_per_hour
    exponent = restart_seconds / 3600 / mean, (stretch + save) / mean
    if max(exponent) > 50:
        return math.inf
    return mean * math.exp(exponent[0]) * math.expm1(exponent[1]) * hours / stretch
