"""Watts, joules, their price, and grams of CO2.

An accelerator draws its idle power and, in proportion to how busy it is, the rest of its limit; its
share of the host (CPU, memory, fans, network) comes on top. Both are rows of the catalog. What the
building adds is the PUE, applied once, where power is priced.
"""

from __future__ import annotations

from cost_models.accelerators import Accelerator

HOST_IDLE_FRACTION = 0.6  # of a node's host power that is drawn whatever the accelerators do


def watts_at_load(accelerator: Accelerator, utilisation: float) -> float:
    """Watts of one accelerator with its share of the host, without PUE.

    ``utilisation`` is the fraction of its power range in use: 0 idle, 1 at the limit. Raises
    ValueError outside of 0 to 1.
    """
    if not 0.0 <= utilisation <= 1.0:
        raise ValueError(f"utilisation: found {utilisation}, allowed: 0 to 1")
    device = accelerator.idle_watts + utilisation * (accelerator.tdp_watts - accelerator.idle_watts)
    host = HOST_IDLE_FRACTION + (1.0 - HOST_IDLE_FRACTION) * utilisation
    return device + host * accelerator.host_watts


def joules(watts: float, seconds: float, pue: float = 1.0) -> float:
    """Energy at the meter of ``watts`` of equipment over ``seconds``."""
    return watts * seconds * pue


def usd_per_hour(watts: float, usd_per_kwh: float, pue: float = 1.0) -> float:
    """Price of an hour of ``watts`` of equipment.

    >>> usd_per_hour(1000.0, 0.08, pue=1.25)
    0.1
    """
    return watts / 1000.0 * pue * usd_per_kwh


def grams_per_hour(watts: float, grams_per_kwh: float, pue: float = 1.0) -> float:
    """Grams of CO2 equivalent that an hour of ``watts`` of equipment causes.

    >>> grams_per_hour(1000.0, 380.0, pue=1.5)
    570.0
    """
    return watts / 1000.0 * pue * grams_per_kwh
