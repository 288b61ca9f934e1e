"""Pools as places: what one of them states holds for all that stand there."""

from __future__ import annotations

import pytest

from cost_models.places import FLOOR_MS
from planner.manifests.schema import GpuPool
from planner.near import Near, UnknownPlace


def pool(name: str, **site: object) -> GpuPool:
    spec = {"accelerator": "h100", "gpusPerNode": 8, "nodes": 1, "site": site}
    made = {"apiVersion": "flopwise.dev/v1alpha1", "kind": "GpuPool", "metadata": {"name": name}}
    return GpuPool.model_validate(made | {"spec": spec})


def cellar(name: str, **stated: object) -> GpuPool:
    return pool(name, kind="onprem", provider="own", region="cellar", **stated)


AWS = pool("aws", provider="aws", region="eu-central-1")


def test_what_one_pool_of_a_place_states_holds_for_the_others() -> None:
    stated = cellar("a", latitude=50.11, longitude=8.68, egressUsdPerGib=0.03)
    links = Near([stated, cellar("b"), AWS]).links("b")
    assert links["aws"].round_trip_ms == pytest.approx(FLOOR_MS)  # Frankfurt itself
    assert links["aws"].usd_per_gib == 0.03
    assert links["a"].usd_per_gib == 0.0


def test_the_catalog_knows_where_a_region_is_that_states_nothing() -> None:
    (link,) = Near([AWS]).links("gcp/europe-west3").values()  # Frankfurt as well
    assert link.round_trip_ms == pytest.approx(FLOOR_MS)
    assert link.usd_per_gib == 0.12


def test_a_place_of_no_coordinates_is_far_from_all_but_itself() -> None:
    links = Near([cellar("a"), cellar("b"), AWS]).links("own/cellar")
    assert {name: link.round_trip_ms for name, link in links.items()} == {
        "a": FLOOR_MS,
        "b": FLOOR_MS,
        "aws": None,
    }
    assert links["aws"].missing == ("site.latitude and site.longitude of own/cellar are not stated")


def test_a_pool_goes_before_a_region_of_its_name() -> None:
    trap = pool("eu-central-1", provider="aws", region="us-east-1")
    assert Near([trap, AWS]).origin("eu-central-1").region == "us-east-1"


def test_a_region_of_one_of_the_pools_goes_before_those_of_the_catalog() -> None:
    ours = pool("p", provider="crusoe", region="us")
    assert Near([ours]).origin("us").name == "crusoe/us"
    with pytest.raises(UnknownPlace, match="several places; allowed: crusoe/us, lambda/us"):
        Near([AWS]).origin("us")
