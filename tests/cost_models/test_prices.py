"""Offers are found by what is wanted, cheapest first; owned hardware costs its annuity."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.accelerators import accelerators
from cost_models.names import UnknownName
from cost_models.prices import (
    HOURS_PER_YEAR,
    Purchase,
    find_offering,
    offerings,
    owned_usd_per_node_hour,
    read_offerings,
)
from cost_models.tables import TableError


def test_the_common_clouds_and_every_rentable_accelerator_have_offers() -> None:
    assert {o.provider for o in offerings()} >= {
        *("aws", "gcp", "azure", "oci", "lambda", "coreweave", "runpod", "nebius"),
    }
    unpriced = set(accelerators()) - {o.accelerator for o in offerings()}
    assert unpriced <= {"p100-sxm2-16gb", "v100-sxm2-32gb", "v100-pcie-16gb"}


def test_an_offer_is_a_fact_with_a_date_and_a_source() -> None:
    # p5.48xlarge, us-east-1: $55.04 an hour since June 2025, 8 GPUs.
    offer = find_offering("h100", provider="aws", region="us-east-1", purchase="on_demand")
    assert offer is not None
    assert (offer.instance_type, offer.gpus_per_node) == ("p5.48xlarge", 8)
    assert offer.usd_per_node_hour == pytest.approx(55.04)
    assert offer.date.year == 2026
    assert offer.source


def test_the_cheapest_match_wins_and_the_way_of_purchase_is_kept() -> None:
    for purchase in (Purchase.ON_DEMAND, Purchase.SPOT):
        best = find_offering("l40s", purchase=purchase)
        matches = [o for o in offerings() if (o.accelerator, o.purchase) == ("l40s", purchase)]
        assert best is not None
        assert best in matches
        assert best.usd_per_gpu_hour == min(o.usd_per_gpu_hour for o in matches)


def test_no_offer_is_an_answer_and_an_unknown_accelerator_an_error() -> None:
    assert find_offering("b200", provider="azure", purchase=Purchase.SPOT) is None
    assert find_offering("h100", purchase=Purchase.OWNED) is None
    with pytest.raises(UnknownName):
        find_offering("h900", purchase=Purchase.SPOT)


def test_spot_is_cheaper_than_on_demand_for_the_same_shape() -> None:
    shape = {
        (o.provider, o.region, o.instance_type, o.accelerator): o.usd_per_gpu_hour
        for o in offerings()
        if o.purchase is Purchase.ON_DEMAND
    }
    for offer in offerings():
        key = (offer.provider, offer.region, offer.instance_type, offer.accelerator)
        if offer.purchase is Purchase.SPOT:
            assert offer.usd_per_gpu_hour < shape[key], key


def test_owned_hardware_without_interest_is_spread_evenly() -> None:
    # 280,000 x 0.9 / (5 x 8760 h) = 5.7534
    assert owned_usd_per_node_hour(280_000, 5, 0.1) == pytest.approx(5.7534, abs=1e-4)


def test_the_annuity_pays_back_the_purchase_with_interest() -> None:
    # Payments of a year discounted at 8 %, and the salvage value of year 5, are worth the purchase.
    yearly = owned_usd_per_node_hour(280_000, 5, 0.1, discount=0.08) * HOURS_PER_YEAR
    payments = sum(yearly / 1.08**year for year in range(1, 6))
    assert payments + 28_000 / 1.08**5 == pytest.approx(280_000)


@given(st.floats(1e3, 1e6), st.floats(0.5, 10), st.floats(0, 0.5), st.floats(0.001, 0.3))
def test_interest_never_makes_owning_cheaper(
    capex: float, years: float, salvage: float, discount: float
) -> None:
    free = owned_usd_per_node_hour(capex, years, salvage)
    assert owned_usd_per_node_hour(capex, years, salvage, discount) >= free


def test_hardware_that_lasts_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="life_years: found 0"):
        owned_usd_per_node_hour(1000, 0)


def test_a_price_of_an_accelerator_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    header = "provider,accelerator,gpus_per_node,purchase,usd_per_gpu_hour,date,source"
    row = "8,spot,1,2026-01-01,me"
    file.write_text(f"{header}\nx,h900,{row}\nx,h100,{row}\nx,l4,8,gift,0,someday,me\n")
    with pytest.raises(TableError) as caught:
        read_offerings(file)
    ways = "'owned', 'reserved', 'on_demand' or 'spot'"
    assert [p.split(": ", 1)[1] for p in caught.value.problems] == [
        f"line 4, column 'purchase': found 'gift', allowed: {ways}",
        "line 4, column 'usd_per_gpu_hour': found '0', allowed: greater than 0",
        "line 4, column 'date': found 'someday', allowed: a date such as 2026-12-31",
    ]
    file.write_text(f"{header}\nx,h900,{row}\nx,h100,{row}\n")
    with pytest.raises(TableError, match="unknown accelerator 'h900'") as caught:
        read_offerings(file)
    assert caught.value.problems[1].endswith("x h100: write its id, h100-sxm5-80gb")
