"""What pools and queues say of themselves, and the least change that says it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scheduler.controller.usage import PoolUse, QueueUse
from scheduler.kube.statuses import difference, pool_told, queue_told, raw

NOW = datetime(2026, 12, 1, 12, 0, 0, 7, tzinfo=UTC)


def ready(of: Any) -> tuple[str, str, str]:
    (found,) = json.loads(json.dumps(raw(of)))["conditions"]
    assert found["type"] == "Ready"
    return found["status"], found["reason"], found["message"]


def test_a_pool_is_ready_when_it_has_nodes_and_its_object_can_be_used() -> None:
    use = PoolUse(nodes=2, gpus=15.5, free_gpus=7.5)
    told_of = partial(pool_told, before={}, generation=3, now=NOW)
    assert ready(told_of(use)) == ("True", "Counted", "2 nodes, 15.5 GPUs")
    assert ready(told_of(PoolUse())) == ("False", "NoNodes", "0 nodes, 0 GPUs")
    fault = 'spec.accelerator: found "h1000", which is no known accelerator, nearest: h100'
    assert ready(told_of(use, fault=fault)) == ("False", "Invalid", fault)
    whole = raw(told_of(use))
    assert (whole["nodes"], whole["gpus"], whole["freeGpus"]) == (2, 15.5, 7.5)
    assert whole["observedGeneration"] == 3


def test_a_queue_tells_who_waits_and_what_is_used() -> None:
    use = QueueUse(waiting_jobs=3, running_jobs=1, used={"h100-sxm5-80gb": 12.5})
    first = raw(queue_told(use, {}, generation=1, now=NOW))
    assert (first["waitingJobs"], first["used"]) == (3, {"h100-sxm5-80gb": 12.5})
    later = NOW + timedelta(hours=1)
    idle = raw(queue_told(QueueUse(), first, generation=1, now=later))
    patch = difference(first, idle)
    assert patch == {"waitingJobs": None, "runningJobs": None, "used": None}
    fault = "spec.parent: found the circle a -> b -> a, allowed: none"
    broken = queue_told(QueueUse(), first, generation=2, fault=fault, now=later)
    assert ready(broken) == ("False", "Invalid", fault)
    assert broken.conditions[0].last_transition_time == later.replace(microsecond=0)


def test_what_is_the_same_is_not_written_again() -> None:
    use = PoolUse(nodes=2, gpus=16.0, free_gpus=8.0)
    first = raw(pool_told(use, {}, generation=1, now=NOW))
    again = raw(pool_told(use, first, generation=1, now=NOW + timedelta(hours=1)))
    assert difference(first, again) == {}


JSON = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(st.text("xyz", max_size=1), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text("xyz", max_size=1), JSON, max_size=3)


def merged(before: Any, patch: Any) -> Any:
    """RFC 7386, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(before) if isinstance(before, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(OBJECTS, OBJECTS)
def test_the_difference_makes_the_one_of_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    patch = difference(before, after)
    assert merged(before, patch) == after
    assert (patch == {}) == (before == after)
