"""Watts between idle and the limit, priced once with the PUE."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.accelerators import accelerators, resolve_accelerator
from cost_models.energy import grams_per_hour, joules, usd_per_hour, watts_at_load

H100 = resolve_accelerator("h100")


@pytest.mark.parametrize(
    ("utilisation", "watts"),
    [
        (0.0, 75 + 0.6 * 300),  # idle, and the part of the host that always runs
        (0.5, 75 + 312.5 + 0.8 * 300),
        (1.0, 700 + 300),
    ],
)
def test_power_goes_from_idle_to_the_limit_with_the_host(utilisation: float, watts: float) -> None:
    assert watts_at_load(H100, utilisation) == pytest.approx(watts)


def test_a_training_node_draws_what_was_measured() -> None:
    # MLPerf Training v4.1 power, Dell XE9680 (8 H100), Llama-2-70B LoRA on 64 GPUs: 899.5 W of AC
    # a GPU, about 3 % of it lost in the power supplies.
    assert watts_at_load(H100, 0.85) == pytest.approx(899.5, rel=0.05)


@pytest.mark.parametrize("utilisation", [-0.1, 1.1, float("nan")])
def test_a_utilisation_that_is_no_fraction_is_refused(utilisation: float) -> None:
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        watts_at_load(H100, utilisation)


def test_an_hour_of_a_kilowatt_is_priced_by_hand() -> None:
    # 1 kW x 1.2 = 1.2 kWh: x $0.08 = $0.096, x 380 g = 456 g, = 4.32 MJ.
    assert usd_per_hour(1000, 0.08, pue=1.2) == pytest.approx(0.096)
    assert grams_per_hour(1000, 380, pue=1.2) == pytest.approx(456)
    assert joules(1000, 3600, pue=1.2) == pytest.approx(4.32e6)


@given(st.sampled_from(sorted(accelerators())), st.floats(0, 1), st.floats(0, 1))
def test_more_work_never_draws_less(name: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    row = accelerators()[name]
    assert watts_at_load(row, low) <= watts_at_load(row, high)
