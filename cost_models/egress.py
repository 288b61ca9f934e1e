"""What it costs to move data out of where they are, by provider.

Providers charge for what leaves a region, not for what arrives. ``data/egress.csv`` holds the list
price of the first paid tier, as most pay it: discounts by volume and free allowances are left out.
Prices are facts of a date. A provider's GB are taken as 2^30 bytes, as their bills count them.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from cost_models.tables import NotNegative, Text, read_bundled, read_table


class Way(StrEnum):
    """Where data go from a region."""

    INTERNET = "internet"  # to another provider, or to a site of one's own
    CROSS_REGION = "cross_region"  # to another region of the same provider


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPrice:
    """What a provider charges for data that leave one of its regions."""

    provider: Text
    way: Way
    usd_per_gib: NotNegative
    date: dt.date  # on which the price was true
    source: Text


_ROW_IS = ("provider", "way")


def read_egress_prices(path: Path) -> tuple[EgressPrice, ...]:
    """Rows of a file of the same columns; `TableError` says everything that is wrong with it."""
    return read_table(path, EgressPrice, unique=_ROW_IS)


@cache
def egress_prices() -> dict[tuple[str, Way], EgressPrice]:
    """The price table, by provider and way."""
    rows = read_bundled("egress.csv", EgressPrice, unique=_ROW_IS)
    return {(row.provider, row.way): row for row in rows}


def egress_usd_per_gib(provider: str, *, to: str) -> float | None:
    """What leaves a region of ``provider`` for another place, of provider ``to``.

    None where the table does not know the provider. Who states one price for all charges it
    between regions too.

    >>> egress_usd_per_gib("aws", to="aws"), egress_usd_per_gib("aws", to="nebius")
    (0.02, 0.09)
    """
    prices = egress_prices()
    ways = (Way.CROSS_REGION, Way.INTERNET) if to == provider else (Way.INTERNET,)
    found = (prices[provider, way].usd_per_gib for way in ways if (provider, way) in prices)
    return next(found, None)
