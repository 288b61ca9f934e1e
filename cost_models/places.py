"""Where regions are, and how long a packet takes from one place to another and back.

The round trip is that of light in glass along the great circle, times a factor for the way that
cables take, and a floor for the equipment at both ends:

    round trip = 2 distance / (2/3 c) x `ROUTE_FACTOR` + `FLOOR_MS`

Held against the mean round trips between ten AWS regions that were published in 2017
(acomputerscientistlearnsaws.blogspot.com/2017/04/aws-regions.html): where cables go about straight,
as over the Atlantic and the Pacific, it is within a quarter of what was measured. No pair was less
than 0.78 of it. Detours it does not know: Frankfurt to Singapore took 2.2 times as long, by way of
America. So what is too far by this is too far; what is near enough deserves a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cost_models.tables import Country, Latitude, Longitude, Text, read_bundled, read_table

EARTH_RADIUS_KM = 6371.0088  # mean (IUGG)
LIGHT_KM_PER_MS = 299.792458
FIBRE_KM_PER_MS = LIGHT_KM_PER_MS * 2 / 3  # refractive index 1.5
ROUTE_FACTOR = 1.4  # length of cable over the great circle
FLOOR_MS = 2.0  # equipment at both ends, and the way inside a region


@dataclass(frozen=True, slots=True)
class Coordinates:
    """A point of the Earth, in degrees; north and east are above 0."""

    latitude: float
    longitude: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Where a provider's region is: the city that it states."""

    provider: Text
    region: Text
    jurisdiction: Country  # ISO 3166 code
    latitude: Latitude
    longitude: Longitude
    location: Text
    source: Text

    @property
    def coordinates(self) -> Coordinates:
        return Coordinates(self.latitude, self.longitude)


_ROW_IS = ("provider", "region")


def read_regions(path: Path) -> tuple[Region, ...]:
    """Rows of a file of the same columns; `TableError` says everything that is wrong with it."""
    return read_table(path, Region, unique=_ROW_IS)


@cache
def regions() -> dict[tuple[str, str], Region]:
    """The table of regions, by provider and region."""
    rows = read_bundled("places.csv", Region, unique=_ROW_IS)
    return {(row.provider, row.region): row for row in rows}


def great_circle_km(a: Coordinates, b: Coordinates) -> float:
    """The way from ``a`` to ``b`` over the Earth taken as a sphere (haversine formula).

    >>> round(great_circle_km(Coordinates(0.0, 0.0), Coordinates(0.0, 180.0)))  # pi x 6371
    20015
    """
    here, there = math.radians(a.latitude), math.radians(b.latitude)
    north, east = (there - here) / 2, math.radians(b.longitude - a.longitude) / 2
    chord = math.sin(north) ** 2 + math.cos(here) * math.cos(there) * math.sin(east) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(chord)))


def round_trip_ms(a: Coordinates, b: Coordinates) -> float:
    """About how long a packet takes from ``a`` to ``b`` and back.

    >>> round_trip_ms(Coordinates(50.11, 8.68), Coordinates(50.11, 8.68))
    2.0
    """
    return 2 * great_circle_km(a, b) / FIBRE_KM_PER_MS * ROUTE_FACTOR + FLOOR_MS
