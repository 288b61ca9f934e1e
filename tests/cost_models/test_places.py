"""Where regions are and how far apart: distances by hand, round trips beside what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from cost_models.places import (
    Coordinates,
    great_circle_km,
    read_regions,
    regions,
    round_trip_ms,
)
from cost_models.prices import offerings
from cost_models.tables import TableError

# Mean round trips between AWS regions in ms, published in 2017
# (acomputerscientistlearnsaws.blogspot.com/2017/04/aws-regions.html), the mean of both directions.
REGIONS = (
    *("us-east-1", "us-west-1", "us-west-2", "eu-west-1", "eu-central-1"),
    *("ap-northeast-1", "ap-northeast-2", "ap-southeast-1", "ap-southeast-2", "sa-east-1"),
)
MEASURED = (
    "",
    "72.2",
    "87.8 19.3",
    "80.5 153.2 137.0",
    "88.6 166.6 159.5 19.6",
    "145.3 102.5 89.1 212.4 236.6",
    "177.5 132.1 118.3 242.4 265.8 31.4",
    "216.7 174.0 161.4 238.6 325.9 73.8 71.6",
    "229.9 157.7 162.1 309.6 323.4 103.9 134.0 175.4",
    "119.5 192.7 182.7 191.3 194.9 256.8 286.3 328.1 322.5",
)
PAIRS = {
    (REGIONS[i], REGIONS[j]): float(ms)
    for i, row in enumerate(MEASURED)
    for j, ms in enumerate(row.split())
}
STRAIGHT = (
    ("eu-west-1", "us-east-1"),  # under the Atlantic
    ("eu-central-1", "us-east-1"),
    ("ap-northeast-1", "us-west-1"),  # under the Pacific
    ("ap-northeast-2", "us-west-2"),
    ("sa-east-1", "us-east-1"),
    ("ap-northeast-1", "us-east-1"),
    ("eu-central-1", "eu-west-1"),  # within a continent
    ("us-west-2", "us-west-1"),
    ("us-west-1", "us-east-1"),
    ("ap-southeast-1", "ap-northeast-1"),
    ("ap-southeast-2", "ap-northeast-1"),
    ("ap-southeast-2", "us-east-1"),
)


def estimated(a: str, b: str) -> float:
    return round_trip_ms(regions()["aws", a].coordinates, regions()["aws", b].coordinates)


def test_a_quarter_of_the_equator_is_ten_thousand_kilometres() -> None:
    # pi / 2 x 6371.0088 km = 10,007.6 km
    equator = Coordinates(0.0, 0.0)
    assert great_circle_km(equator, Coordinates(0.0, 90.0)) == pytest.approx(10_007.557, abs=0.001)
    assert great_circle_km(equator, Coordinates(90.0, 50.0)) == pytest.approx(10_007.557, abs=0.001)


def test_the_way_over_the_date_line_is_the_short_one() -> None:
    # 2 degrees of the equator: 6371.0088 x pi / 90 = 222.39 km
    found = great_circle_km(Coordinates(0.0, 179.0), Coordinates(0.0, -179.0))
    assert found == pytest.approx(222.39, abs=0.01)


def test_a_round_trip_is_that_of_light_in_fibre_times_the_detour_and_a_floor() -> None:
    # 10,007.557 km at 2/3 of 299.792458 km/ms: 50.073 ms a way, 100.147 there and back,
    # x 1.4 = 140.205, + 2.
    found = round_trip_ms(Coordinates(0.0, 0.0), Coordinates(0.0, 90.0))
    assert found == pytest.approx(142.205, abs=0.01)


@pytest.mark.parametrize(("a", "b"), STRAIGHT)
def test_where_cables_go_straight_the_estimate_is_within_a_quarter_of_the_measured_round_trip(
    a: str, b: str
) -> None:
    assert estimated(a, b) == pytest.approx(PAIRS[a, b], rel=0.25)


def test_no_region_was_measured_much_nearer_than_estimated() -> None:
    assert len(PAIRS) == 45
    ratio = {pair: ms / estimated(*pair) for pair, ms in PAIRS.items()}
    assert min(ratio.values()) > 0.77
    assert max(ratio, key=lambda pair: ratio[pair]) == ("ap-southeast-1", "eu-central-1")
    assert max(ratio.values()) == pytest.approx(2.23, abs=0.01)


def test_every_region_that_has_a_price_has_a_place_in_the_same_country() -> None:
    priced = {(o.provider, o.region): o.jurisdiction for o in offerings() if o.region}
    assert {place: regions()[place].jurisdiction for place in priced} == priced


def test_a_file_of_regions_names_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    head = "provider,region,jurisdiction,latitude,longitude,location,source\n"
    path.write_text(f"{head}acme,x1,DE,95,8.68,Frankfurt,a note\n", encoding="utf-8")
    with pytest.raises(TableError, match="column 'latitude': found '95', allowed: less than"):
        read_regions(path)
