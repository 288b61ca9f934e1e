"""Layouts use the GPUs they are given, write as people do, and know their links."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.accelerators import resolve_accelerator
from cost_models.architectures import architectures, resolve_architecture
from cost_models.parallelism import Layout, link_gbps, tensor_sizes, training_layouts


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (Layout(), "1 gpu"),
        (Layout(data=8), "fsdp8"),
        (Layout(tensor=8, data=4), "tp8 fsdp4"),
        (Layout(tensor=8, pipeline=4, data=2), "tp8 pp4 dp2"),
        (Layout(pipeline=2, context=2, data=8, expert=8), "pp2 cp2 dp8 ep8"),
    ],
)
def test_a_layout_writes_as_people_write_it(layout: Layout, text: str) -> None:
    assert str(layout) == text


@given(
    st.sampled_from(sorted(architectures())),
    st.integers(1, 96),
    st.sampled_from([1, 4, 8]),
    st.sampled_from([512, 8192, 131_072]),
)
def test_every_layout_uses_all_gpus_and_splits_what_can_be_split(
    model: str, gpus: int, gpus_per_node: int, length: int
) -> None:
    row = architectures()[model]
    layouts = list(
        training_layouts(row, gpus=gpus, gpus_per_node=gpus_per_node, sequence_length=length)
    )
    assert Layout(data=gpus, expert=layouts[0].expert) == layouts[0]
    assert len(layouts) == len(set(layouts))
    for layout in layouts:
        assert layout.gpus == gpus
        assert layout.tensor <= gpus_per_node
        assert row.heads % layout.tensor == 0
        assert row.layers >= 2 * layout.pipeline
        assert max(row.experts, 1) % layout.expert == 0


def test_tensor_parallelism_divides_the_heads() -> None:
    # 14 heads split in two, and no further by powers of two.
    assert list(tensor_sizes(resolve_architecture("qwen-2.5-0.5b"), 8)) == [1, 2]


@pytest.mark.parametrize(
    ("name", "gpus", "gbps"),
    [
        ("h100-sxm5-80gb", 8, 450.0),  # NVLink 4, 900 GB/s in both directions together
        ("h100-sxm5-80gb", 16, 50.0),  # 400 Gb/s a GPU
        ("l40s", 4, 24.0),  # PCIe 4
        ("a100-pcie-80gb", 2, 300.0),  # the bridge joins two
        ("a100-pcie-80gb", 4, 24.0),
        ("gb200", 64, 900.0),  # one NVLink domain of 72
    ],
)
def test_traffic_goes_over_the_fastest_link_that_all_share(
    name: str, gpus: int, gbps: float
) -> None:
    assert link_gbps(resolve_accelerator(name), gpus, gpus_per_node=8) == gbps
