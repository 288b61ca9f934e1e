"""What leaving a region costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cost_models.egress import Way, egress_prices, egress_usd_per_gib, read_egress_prices
from cost_models.tables import TableError


def test_what_stays_with_its_provider_costs_less_than_what_leaves_it() -> None:
    for provider in ("aws", "azure", "gcp"):
        between = egress_usd_per_gib(provider, to=provider)
        out = egress_usd_per_gib(provider, to="elsewhere")
        assert between == 0.02
        assert out is not None
        assert out > between


def test_a_provider_with_one_price_charges_it_between_its_regions_too() -> None:
    assert ("nebius", Way.CROSS_REGION) not in egress_prices()
    assert egress_usd_per_gib("nebius", to="nebius") == egress_usd_per_gib("nebius", to="aws")


def test_a_provider_that_the_table_does_not_know_has_no_price() -> None:
    assert egress_usd_per_gib("acme", to="aws") is None


def test_a_file_of_prices_names_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    head = "provider,way,usd_per_gib,date,source\n"
    path.write_text(f"{head}acme,pigeon,0.1,2026-11-01,a note\n", encoding="utf-8")
    with pytest.raises(TableError, match="column 'way': found 'pigeon'"):
        read_egress_prices(path)
