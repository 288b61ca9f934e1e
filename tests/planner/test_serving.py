"""The cheapest mix of GPUs against answers by hand, counting through, and Mélange's own ILP."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from planner.convert.melange import read_melange
from planner.manifests.errors import ManifestErrors
from planner.serving import Mix, Offer, Workload, violations
from planner.solve.mix import cheapest
from tests.benchmarks.melange import drawn, sliced_usd

EXAMPLE = Path(__file__).parents[3] / "shared" / "data" / "melange" / "example.json"


def workload(asked: list[float], **offers: tuple[float, list[float]]) -> Workload:
    """Requests by bucket; offers by name as (price, what one carries of each bucket)."""
    return Workload(
        buckets=tuple(f"b{b}" for b in range(len(asked))),
        requests_per_second=tuple(asked),
        offers=tuple(
            Offer(name=name, usd_per_hour=usd, requests_per_second=tuple(rates))
            for name, (usd, rates) in offers.items()
        ),
    )


# -- by hand -------------------------------------------------------------------------------------


def test_a_bucket_is_split_where_neither_type_fits_it_alone() -> None:
    # 12 requests. small: 4 each at $1; large: 10 at $2.2. 3 small $3.00; 2 large $4.40;
    # 1 large + 1 small carry 14 for $3.20; 3 small it is. At 13: 4 small $4.00, the pair $3.20.
    mix = cheapest(workload([12], small=(1.0, [4]), large=(2.2, [10])))
    assert mix is not None
    assert (mix.gpus, mix.usd_per_hour) == ((3, 0), 3.0)
    mix = cheapest(workload([13], small=(1.0, [4]), large=(2.2, [10])))
    assert mix is not None
    assert mix.gpus == (1, 1)
    assert mix.usd_per_hour == mix.bound_usd_per_hour == pytest.approx(3.2)
    # The busiest has the least to do: 13 / 14 of both, so 10 / 14 of the requests go to large.
    assert mix.split[0] == pytest.approx((4 / 14, 10 / 14))


def test_nothing_asked_for_needs_nothing() -> None:
    mix = cheapest(workload([0, 0], only=(1.0, [4, 0])))
    assert mix == Mix(gpus=(0,), split=((0.0,), (0.0,)), usd_per_hour=0.0, bound_usd_per_hour=0.0)


def test_a_bucket_that_nobody_serves_is_named_only_where_it_is_asked_for() -> None:
    asked = workload([1, 1], one=(1.0, [4, 0]), two=(1.0, [3, 0]))
    assert asked.unserved == ("b1",)
    assert cheapest(asked) is None
    assert replace(asked, requests_per_second=(1.0, 0.0)).unserved == ()


def test_a_bucket_goes_round_the_type_that_cannot_serve_it() -> None:
    mix = cheapest(workload([1, 1], cheap=(1.0, [2, 0]), dear=(5.0, [1, 1])))
    assert mix is not None
    assert mix.gpus == (1, 1)  # $6; two of the dear $10
    assert mix.split[1] == (0.0, 1.0)


def test_exactly_full_gpus_are_not_one_too_many() -> None:
    # 3 x 0.1 is 0.30000000000000004, which would be a hair above three GPUs of 0.1.
    mix = cheapest(workload([0.1 + 0.2], only=(1.0, [0.1])))
    assert mix is not None
    assert mix.gpus == (3,)


def test_a_billion_requests_are_priced_within_a_millionth() -> None:
    mix = cheapest(workload([1e9, 3e9], small=(1.01, [2, 5]), large=(3.67, [20, 40])))
    assert mix is not None
    assert mix.gap_fraction < 1e-6
    # large: 1e9 / 20 + 3e9 / 40 = 125,000,000 at $3.67; small is dearer a request of either.
    assert mix.usd_per_hour == pytest.approx(125e6 * 3.67, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpus": (1, 0)}, "small: "),
        ({"split": ((0.5, 0.0),)}, "add up to 1"),
        ({"usd_per_hour": 1.0}, "price: said 1"),
        ({"bound_usd_per_hour": 9.0}, "bound: 9"),
    ],
)
def test_a_false_mix_is_found_out(change: dict[str, Any], said: str) -> None:
    asked = workload([12], small=(1.0, [4]), large=(2.2, [10]))
    mix = cheapest(asked)
    assert mix is not None
    assert violations(asked, mix) == ()
    wrong = violations(asked, replace(mix, **change))
    assert any(said in message for message in wrong)


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="one number from 0 for each bucket"):
        workload([1], a=(1.0, [1, 2]))
    with pytest.raises(ValueError, match="one number from 0 for each bucket"):
        workload([math.inf], a=(1.0, [1]))
    with pytest.raises(ValueError, match="a price is a number"):
        workload([1], a=(-1.0, [1]))


# -- by counting through -------------------------------------------------------------------------


def carries(asked: Workload, gpus: tuple[int, int]) -> bool:
    """Whether two offers carry it: buckets go to the first by how much better it is at them."""
    left = float(gpus[0])
    second = 0.0
    loads = [(asked.load(b, 0), asked.load(b, 1)) for b in range(len(asked.buckets))]
    for one, two in sorted(loads, key=lambda pair: pair[0] / pair[1] if pair[1] else math.inf):
        part = min(1.0, left / one) if one else 1.0
        left -= part * one
        second += (1 - part) * two
    return second <= gpus[1] + 1e-9


def test_the_price_is_the_least_of_all_counts() -> None:
    for seed in range(120):
        rng = random.Random(seed)
        buckets = rng.randint(1, 4)
        asked = workload(
            [rng.choice((0.0, rng.uniform(0.5, 9))) for _ in range(buckets)],
            a=(rng.uniform(0.5, 2), [rng.uniform(1, 4) for _ in range(buckets)]),
            b=(rng.uniform(1, 4), [rng.uniform(2, 9) for _ in range(buckets)]),
        )
        a, b = (offer.usd_per_hour for offer in asked.offers)
        least = min(
            n * a + m * b for n, m in product(range(40), range(20)) if carries(asked, (n, m))
        )
        mix = cheapest(asked)
        assert mix is not None
        assert mix.usd_per_hour == pytest.approx(least), seed
        assert mix.gap_fraction == 0.0, seed
        assert violations(asked, mix) == ()


def test_never_dearer_than_slices() -> None:
    for seed in range(12):
        melange = drawn(random.Random(seed))
        rates = tuple(r / 4 for r in melange.workload.requests_per_second)
        small = replace(
            melange, slices=2, workload=replace(melange.workload, requests_per_second=rates)
        )
        mix = cheapest(small.workload)
        assert mix is not None
        assert mix.usd_per_hour <= sliced_usd(small)[0] + 1e-9, seed
        assert mix.gap_fraction == 0.0


# -- Mélange's files -----------------------------------------------------------------------------


def document(**changes: object) -> dict[str, object]:
    right: dict[str, object] = {
        "gpu_info": {
            "L4": {"cost": 0.7, "tputs": [[3, 1.5], [1, 0]]},
            "H100": {"cost": 7, "tputs": [[40, 20], [20, 8]]},
        },
        "workload_distribution": [[0.5, 0.25], [0.125, 0.125]],
        "total_request_rate": 8,
        "slice_factor": 2,
    }
    return right | changes


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "melange.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    melange = read_melange(written(tmp_path, document()))
    assert melange.slices == 2
    assert melange.workload == Workload(
        buckets=("0,0", "0,1", "1,0", "1,1"),
        requests_per_second=(4.0, 2.0, 1.0, 1.0),
        offers=(
            Offer(name="L4", usd_per_hour=0.7, requests_per_second=(3.0, 1.5, 1.0, 0.0)),
            Offer(name="H100", usd_per_hour=7.0, requests_per_second=(40.0, 20.0, 20.0, 8.0)),
        ),
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ([], "found a list, allowed: an object"),
        (document(gpu_info={}), "gpu_info: found a mapping"),
        (document(gpu_info={"L4": 3}), "gpu_info.L4.cost: found nothing"),
        (document(gpu_info={"L4": {"cost": -1, "tputs": [[1, 1], [1, 1]]}}), "L4.cost: found -1"),
        (document(gpu_info={"L4": {"cost": 1, "tputs": [[1, 1]]}}), "L4.tputs: found rows of 2"),
        (
            document(gpu_info={"L4": {"cost": 1, "tputs": [[1, 1], [1, True]]}}),
            "L4.tputs[1][1]: found true",
        ),
        (document(workload_distribution=[]), "workload_distribution: found a list"),
        (document(workload_distribution=[[1, "x"], [0, 0]]), 'distribution[0][1]: found "x"'),
        (document(total_request_rate=None), "total_request_rate: found nothing"),
        (document(total_request_rate=math.nan), "total_request_rate: found nan"),
        (document(total_request_rate=1e300), "total_request_rate: found 1e+300"),
        (document(slice_factor=0), "slice_factor: found 0"),
    ],
)
def test_another_file_says_what_is_wrong(tmp_path: Path, content: object, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ManifestErrors) as caught:
        read_melange(path)
    assert any(said in line for line in caught.value.errors), caught.value.errors
    assert all(line.startswith(str(path)) for line in caught.value.errors)


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="Mélange's example is not beside the project")
def test_the_example_costs_less_than_with_whole_buckets() -> None:
    # One A100 carries 6/20 + 3/20 + 15/40 + 6/20 = 1.125 GPUs of work: one A10G beside it takes a
    # third of the 15, a whole GPU of its own. $3.67 + $1.01; no fewer do, and 4 A10G carry 4 of 12.
    melange = read_melange(EXAMPLE)
    mix = cheapest(melange.workload)
    assert mix is not None
    assert mix.gpus == (1, 1)
    assert mix.usd_per_hour == mix.bound_usd_per_hour == pytest.approx(4.68)
    usd, proved = sliced_usd(melange)
    assert proved
    assert usd == pytest.approx(6.70)
