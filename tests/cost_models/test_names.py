"""Names resolve by id or alias, and an unknown one says what was meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.names import UnknownName, find, nearest

IDS = {"l4": 1, "l40s": 2, "h100-sxm5-80gb": 3}
ALIASES = {"h100": "h100-sxm5-80gb"}


@pytest.mark.parametrize(("name", "value"), [("l4", 1), ("H100", 3), (" l40s ", 2)])
def test_an_id_or_alias_resolves_whatever_its_case(name: str, value: int) -> None:
    assert find("accelerator", name, IDS, ALIASES) == value


def test_an_unknown_name_carries_what_it_is_and_the_nearest_names() -> None:
    with pytest.raises(UnknownName) as caught:
        find("accelerator", "h100-sxm", IDS, ALIASES)
    error = caught.value
    assert (error.kind, error.name) == ("accelerator", "h100-sxm")
    assert "h100-sxm5-80gb" in error.nearest
    assert str(error).startswith("unknown accelerator 'h100-sxm'; did you mean ")


def test_a_name_like_no_other_gets_no_hint() -> None:
    with pytest.raises(UnknownName) as caught:
        find("model", "zzzzzz", IDS, ALIASES)
    assert caught.value.nearest == ()
    assert str(caught.value) == "unknown model 'zzzzzz'"


@given(st.text(max_size=20))
def test_the_nearest_names_are_known_distinct_and_at_most_three(name: str) -> None:
    found = nearest(name, (*IDS, *ALIASES))
    assert len(found) == len(set(found)) <= 3
    assert set(found) <= {*IDS, *ALIASES}
