"""The accelerator catalog says what vendors say, in dense rates, under every name it has."""

from pathlib import Path

import pytest

from cost_models.accelerators import (
    Precision,
    accelerators,
    read_accelerators,
    resolve_accelerator,
    resolve_precision,
)
from cost_models.names import UnknownName
from cost_models.tables import TableError

REQUIRED = {
    *("k80", "p100-pcie-16gb", "v100-sxm2-16gb", "t4", "a10g", "l4", "l40s"),
    *("a100-sxm4-40gb", "a100-sxm4-80gb", "a100-pcie-80gb", "h100-pcie-80gb", "h100-sxm5-80gb"),
    *("h200-sxm-141gb", "b200", "gb200", "mi300x", "tpu-v5e"),
}

HEADER = (
    "id,name,vendor,memory_gib,memory_bandwidth_gbps,matmul_fraction,gpus_per_domain,"
    "host_link_gbps,scale_out_gbps,tdp_watts,idle_watts,host_watts,aliases,source"
)


def test_the_accelerators_of_the_common_clouds_are_there() -> None:
    assert set(accelerators()) >= REQUIRED


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("t4", "fp16", 65.0),
        ("v100-sxm2-16gb", "fp16", 125.0),
        ("v100-sxm2-16gb", "bf16", None),  # Volta has no bfloat16 units
        ("a100-sxm4-80gb", "bf16", 312.0),  # headline 624 counts sparsity
        ("a100-sxm4-80gb", "fp8", None),
        ("l40s", "bf16", 362.05),  # headline 733
        ("h100-sxm5-80gb", "bf16", 989.4),  # headline 1,979
        ("h100-sxm5-80gb", "fp8", 1979.0),  # headline 3,958
        ("b200", "bf16", 2250.0),  # headline 4,500
        ("b200", "fp4", 9000.0),  # headline 18,000
        ("gb200", "fp8", 5000.0),  # headline 10,000 a GPU, 20,000 a superchip of two
        ("mi300x", "bf16", 1307.4),  # headline is dense already
        ("h100", "int4", None),  # a way to hold weights, not to multiply
    ],
)
def test_rates_are_dense(name: str, precision: str, tflops: float | None) -> None:
    assert resolve_accelerator(name).dense_tflops(precision) == tflops


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("v100-sxm2-16gb", 1024),  # 80 SMs x 1,024 x 1,530 MHz = 125.3 TFLOP/s
        ("t4", 1024),
        ("a10g", 512),
        ("l4", 1024),
        ("l40s", 1024),
        ("a100-sxm4-80gb", 2048),  # 108 x 2,048 x 1,410 MHz = 311.9
        ("h100-pcie-80gb", 4096),
        ("h100-sxm5-80gb", 4096),  # 132 x 4,096 x 1,830 MHz = 989.4
        ("h200-sxm-141gb", 4096),
        ("b200", 8192),
    ],
)
def test_one_sm_does_a_power_of_two_in_a_clock(name: str, flops: int) -> None:
    assert resolve_accelerator(name).flops_per_clock == pytest.approx(flops, rel=0.003)


def test_what_an_sm_does_is_unknown_where_sms_or_clock_are() -> None:
    assert resolve_accelerator("mi300x").flops_per_clock is None


def test_narrower_numbers_are_never_slower() -> None:
    order = (Precision.FP32, Precision.TF32, Precision.FP16, Precision.FP8, Precision.FP4)
    for row in accelerators().values():
        rates = [rate for p in order if (rate := row.dense_tflops(p))]
        assert rates == sorted(rates), row.id


def test_power_and_link_figures_are_plausible() -> None:
    for row in accelerators().values():
        assert row.idle_watts < row.tdp_watts / 2, row.id
        assert (row.gpus_per_domain == 1) == (row.scale_up_gbps == 0), row.id
        assert row.scale_up_gbps == 0 or row.scale_up_gbps > row.host_link_gbps, row.id


@pytest.mark.parametrize(
    "name",
    ["h100", "H100-SXM", "NVIDIA H100 80GB HBM3", "NVIDIA-H100-80GB-HBM3", "h100-sxm5-80gb"],
)
def test_an_accelerator_answers_to_its_id_aliases_nvml_name_and_node_label(name: str) -> None:
    assert resolve_accelerator(name).id == "h100-sxm5-80gb"


def test_an_unknown_accelerator_names_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        resolve_accelerator("h100-smx")
    assert caught.value.kind == "accelerator"
    assert "h100-sxm" in caught.value.nearest


def test_an_unknown_precision_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown precision 'bf17'; did you mean bf16"):
        resolve_precision("bf17")


def test_a_row_is_added_without_code_and_rates_may_be_unknown(tmp_path: Path) -> None:
    file = tmp_path / "more.csv"
    file.write_text(f"{HEADER}\nx1,X1,Acme,24,900,0.7,1,32,3,200,20,60,x-one,Acme datasheet\n")
    (row,) = read_accelerators(file)
    assert (row.id, row.aliases, row.dense_tflops("bf16")) == ("x1", ("x-one",), None)


def test_one_name_cannot_mean_two_accelerators(tmp_path: Path) -> None:
    file = tmp_path / "more.csv"
    rest = "Acme,24,900,0.7,1,32,3,200,20,60,same,Acme"
    file.write_text(f"{HEADER}\nx1,X1,{rest}\nx2,X2,{rest}\n")
    with pytest.raises(TableError, match="'same' names both x1 and x2"):
        read_accelerators(file)
