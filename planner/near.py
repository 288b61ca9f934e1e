"""From where a job's users and data are to each pool: how far, and at what price a GiB.

`near` names a place: a pool (where that stands), or a region, alone or behind its provider. What a
pool's manifest says of its site comes before the catalogs; all pools of one provider and region
stand in one place, so that one of them need state it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cost_models.egress import egress_prices, egress_usd_per_gib
from cost_models.names import nearest
from cost_models.places import FLOOR_MS, Coordinates, regions, round_trip_ms
from planner.manifests.schema import GpuPool, Site, SiteKind

MOST_NAMED = 6  # places in an error


class UnknownPlace(ValueError):
    """What `near` names is no place, or several; the message says what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A place, as far as it is known."""

    provider: str
    region: str
    pool: str = ""  # whose name it is, where it has no other
    own: bool = False  # on one's own premises
    at: Coordinates | None = None
    stated_usd_per_gib: float | None = None

    @property
    def name(self) -> str:
        return "/".join(filter(None, (self.provider, self.region))) or self.pool

    def same(self, other: Spot) -> bool:
        """Whether data need not move from one to the other."""
        if self.region and other.region:
            return (self.provider, self.region) == (other.provider, other.region)
        return bool(self.pool) and self.pool == other.pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The way from a job's data and users to a pool."""

    of: str  # where they are
    round_trip_ms: float | None  # None: not known
    missing: str  # why not
    usd_per_gib: float | None  # None: not known


class Near:
    """The pools of a fleet as places."""

    def __init__(self, pools: Sequence[GpuPool]) -> None:
        self.pools = pools
        self._known: dict[str, Mapping[str, Link]] = {}
        shared = _shared(pool.spec.site for pool in pools)
        self.spots = {p.metadata.name: _spot(p.metadata.name, p.spec.site, shared) for p in pools}

    def links(self, near: str) -> Mapping[str, Link]:
        """The way from ``near`` to each pool, by name. Raises `UnknownPlace`."""
        if near not in self._known:
            origin = self.origin(near)
            self._known[near] = {name: _link(origin, to) for name, to in self.spots.items()}
        return self._known[near]

    def origin(self, near: str) -> Spot:
        """The place that ``near`` names. Raises `UnknownPlace`."""
        if near in self.spots:
            return self.spots[near]
        found = list(self._called(near.lower()))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(spot.name for spot in found[:MOST_NAMED])
            raise UnknownPlace(f"found {near!r}, which is several places; allowed: {names}")
        raise UnknownPlace(
            f"found {near!r}, which is no pool and no known region{self._hint(near)}"
        )

    def _called(self, near: str) -> Iterator[Spot]:
        """Places of this provider and region, or of this region; those of the pools go first."""
        of_pools = {s.name: s for s in self.spots.values() if s.region}
        ours = [s for s in of_pools.values() if near in (s.name, s.region)]
        if ours:
            yield from ours
            return
        for (provider, region), row in regions().items():
            if near in (f"{provider}/{region}", region):
                yield Spot(provider=provider, region=region, at=row.coordinates)

    def _hint(self, near: str) -> str:
        known = dict.fromkeys(
            (*self.spots, *(s.name for s in self.spots.values()), *map("/".join, regions()))
        )
        provider = near.lower().partition("/")[0]
        ours = [name for name in known if name.startswith(f"{provider}/")]
        close = nearest(near, known) or ours or list(self.spots)
        such = ", ".join(close[:MOST_NAMED])
        listed = "flopwise catalog list places"
        return f"; allowed: a pool, or PROVIDER/REGION of `{listed}`, such as {such}"


Stated = tuple[Coordinates | None, float | None]  # where it is, and what leaving it costs


def _shared(sites: Iterable[Site]) -> dict[tuple[str, str], Stated]:
    """By provider and region, what the first pool there states that states it."""
    found: dict[tuple[str, str], Stated] = {}
    for site in sites:
        if site.region:
            key = site.provider.lower(), site.region.lower()
            found[key] = _either(found.get(key, (None, None)), _stated(site))
    return found


def _stated(site: Site) -> Stated:
    at = None
    if site.latitude is not None and site.longitude is not None:
        at = Coordinates(site.latitude, site.longitude)
    return at, site.egress_usd_per_gib


def _either(first: Stated, second: Stated) -> Stated:
    """Each of the two, of the first where it has it."""
    at = second[0] if first[0] is None else first[0]
    return at, second[1] if first[1] is None else first[1]


def _spot(name: str, site: Site, shared: Mapping[tuple[str, str], Stated]) -> Spot:
    provider, region = key = site.provider.lower(), site.region.lower()
    at, usd_per_gib = _either(_stated(site), shared.get(key, (None, None)))
    row = regions().get(key)
    return Spot(
        provider=provider,
        region=region,
        pool=name,
        own=site.kind is not SiteKind.CLOUD,
        at=at or (row.coordinates if row else None),
        stated_usd_per_gib=usd_per_gib,
    )


def _link(origin: Spot, to: Spot) -> Link:
    if origin.same(to):
        return Link(of=origin.name, round_trip_ms=FLOOR_MS, missing="", usd_per_gib=0.0)
    nowhere = [spot.name for spot in (origin, to) if spot.at is None]
    far = round_trip_ms(origin.at, to.at) if origin.at and to.at else None
    missing = f"site.latitude and site.longitude of {' and of '.join(nowhere)} are not stated"
    return Link(
        of=origin.name,
        round_trip_ms=far,
        missing=missing if nowhere else "",
        usd_per_gib=_usd_per_gib(origin, to),
    )


def _usd_per_gib(origin: Spot, to: Spot) -> float | None:
    if origin.stated_usd_per_gib is not None:
        return origin.stated_usd_per_gib
    known = egress_usd_per_gib(origin.provider, to=to.provider)
    return 0.0 if known is None and origin.own else known


def no_price(origin: str) -> str:
    """What to say of data at a place whose provider's price is not known."""
    providers = ", ".join(dict.fromkeys(provider for provider, _ in egress_prices()))
    return (
        f"found no price of what leaves {origin}, allowed: site.egressUsdPerGib of a pool there, "
        f"or a place of {providers}"
    )
