"""What having accelerators costs: offers to rent, and the annuity of owned hardware.

``data/prices.csv`` holds offers that were read from a named source on a named date. Prices move:
an offer is a fact about its date.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from cost_models.accelerators import resolve_accelerator
from cost_models.names import UnknownName
from cost_models.tables import (
    AtLeastOne,
    Count,
    Country,
    NotNegative,
    Positive,
    TableError,
    Text,
    read_bundled,
    read_table,
)

HOURS_PER_YEAR = 8760.0


class Purchase(StrEnum):
    """The ways to have hardware."""

    OWNED = "owned"
    RESERVED = "reserved"
    ON_DEMAND = "on_demand"
    SPOT = "spot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offering:
    """One way to have accelerators: a shape, in a place, at a price, on a date."""

    provider: Text
    region: str = ""  # as the provider spells it; empty: one price everywhere
    jurisdiction: Country = ""  # ISO 3166 code, or EU; empty: not stated
    instance_type: str = ""
    accelerator: Text  # id in the accelerator catalog
    gpus_per_node: AtLeastOne
    vcpus: Count = 0  # of the node; 0: not stated
    memory_gib: NotNegative = 0.0  # host memory of the node; 0: not stated
    purchase: Purchase
    usd_per_gpu_hour: Positive
    date: dt.date  # on which the price was true
    source: Text

    @property
    def usd_per_node_hour(self) -> float:
        return self.usd_per_gpu_hour * self.gpus_per_node


_ROW_IS = ("provider", "region", "instance_type", "accelerator", "gpus_per_node", "purchase")


def read_offerings(path: Path) -> tuple[Offering, ...]:
    """Rows of a file of the same columns; `TableError` says everything that is wrong with it."""
    return _checked(read_table(path, Offering, unique=_ROW_IS), str(path))


@cache
def offerings() -> tuple[Offering, ...]:
    """The price table."""
    return _checked(read_bundled("prices.csv", Offering, unique=_ROW_IS), "prices.csv")


def find_offering(
    accelerator: str, *, provider: str = "", region: str = "", purchase: str = Purchase.ON_DEMAND
) -> Offering | None:
    """The cheapest offer of ``accelerator`` (id or alias); None where the table has none.

    An empty ``provider`` or ``region`` matches any; a region-free offer matches every region.
    Raises `UnknownName` for an accelerator that is not in the catalog.
    """
    wanted = resolve_accelerator(accelerator).id
    matches = (
        offer
        for offer in offerings()
        if offer.accelerator == wanted
        and offer.purchase == purchase
        and (not provider or offer.provider == provider.lower())
        and (not region or offer.region in ("", region.lower()))
    )
    return min(matches, key=lambda offer: (offer.usd_per_gpu_hour, offer.provider), default=None)


def owned_usd_per_node_hour(
    capex_usd: float, life_years: float, salvage_fraction: float = 0.0, discount: float = 0.0
) -> float:
    """What an hour of owned hardware costs, energy apart: the annuity of its purchase.

    ``discount`` is the yearly cost of capital. The purchase, less what the salvage value is worth
    today, is spread over ``life_years`` in equal payments (the capital recovery factor).

    >>> round(owned_usd_per_node_hour(280_000, 5, salvage_fraction=0.1), 2)  # 252000 / 43800 h
    5.75
    >>> round(owned_usd_per_node_hour(280_000, 5, salvage_fraction=0.1, discount=0.08), 2)
    7.46
    """
    if life_years <= 0.0:
        raise ValueError(f"life_years: found {life_years}, allowed: above 0")
    if discount == 0.0:
        return capex_usd * (1.0 - salvage_fraction) / life_years / HOURS_PER_YEAR
    shrink: float = (1.0 + discount) ** -life_years
    present = capex_usd * (1.0 - salvage_fraction * shrink)
    return present * discount / (1.0 - shrink) / HOURS_PER_YEAR


def _checked(rows: tuple[Offering, ...], source: str) -> tuple[Offering, ...]:
    """The rows, where every accelerator is one that the catalog knows by this id."""
    problems = []
    for row in rows:
        try:
            known = resolve_accelerator(row.accelerator).id
        except UnknownName as error:
            problems.append(f"{source}: {row.provider} {row.instance_type}: {error}")
            continue
        if known != row.accelerator:
            problems.append(f"{source}: {row.provider} {row.accelerator}: write its id, {known}")
    if problems:
        raise TableError(tuple(dict.fromkeys(problems)))
    return rows
