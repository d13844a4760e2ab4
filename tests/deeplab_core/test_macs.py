"""Parameters and multiply-adds against published and independently computed figures (513 px, 21 classes).

One convolution more, fewer, wider or at another stride than in the reference graph shows here.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deeplab_core.config import ModelConfig
from deeplab_core.model import build_model

CLASSES = tuple(f"class {index}" for index in range(21))
SIZE_PX = 513


@dataclass(frozen=True)
class Row:
    """One line of the table: a graph, its parameters in millions and its multiply-adds in billions."""

    name: str
    graph: dict[str, Any]
    params_m: float
    gmac_os16: float | None = None
    gmac_os8: float | None = None
    with_aux: bool = False
    figures: dict[int, float] = field(init=False)

    def __post_init__(self) -> None:
        known = {16: self.gmac_os16, 8: self.gmac_os8}
        object.__setattr__(
            self, "figures", {stride: gmac for stride, gmac in known.items() if gmac is not None}
        )


def v3plus(backbone: str, *, separable: bool = False) -> dict[str, Any]:
    return {"backbone": backbone, "separable": separable}


def torchvision_v3(backbone: str) -> dict[str, Any]:
    return {"arch": "deeplabv3", "backbone": backbone, "head_conv": True, "aux_head": True}


ROWS = [
    Row("R18", v3plus("resnet18"), 16.61, 42.7, 88.1),
    Row("R18 sep", v3plus("resnet18", separable=True), 12.34, 20.3, 55.9),
    Row("R34", v3plus("resnet34"), 26.72, 56.7, 131.7),
    Row("R34 sep", v3plus("resnet34", separable=True), 22.45, 34.3, 99.5),
    Row("R50", v3plus("resnet50"), 40.35, 72.2, 187.9),
    Row("R50 sep", v3plus("resnet50", separable=True), 26.70, 39.6, 116.0),
    Row("R101", v3plus("resnet101"), 59.34, 92.8, 267.9),
    Row("R101 sep", v3plus("resnet101", separable=True), 45.69, 60.2, 196.0),
    Row("X65 sep", v3plus("xception65", separable=True), 41.06, 54.04, 176.85),
    Row("X65", v3plus("xception65"), 54.71, 86.7, 248.8),
    # At output stride 8 timm leaves out a shortcut of Xception-71, so only 16 is the reference graph.
    Row("X71 sep", v3plus("timm/xception71", separable=True), 43.48, 66.1),
    Row("MNv3-L timm sep", v3plus("timm/mobilenetv3_large_100", separable=True), 4.72, 6.0, 14.5),
    Row("MNv3-L sep", v3plus("mobilenet_v3_large", separable=True), 4.72, 6.0, 14.5),
    Row("MNv2 sep", v3plus("timm/mobilenetv2_100", separable=True), 2.72, 5.8, 13.3),
    Row("MNv2", v3plus("timm/mobilenetv2_100"), 5.82, 26.9, 40.6),
    Row("torchvision v3 R50", torchvision_v3("resnet50"), 42.00, gmac_os8=178.6, with_aux=True),
    Row("torchvision v3 R101", torchvision_v3("resnet101"), 61.00, gmac_os8=258.7, with_aux=True),
    Row("torchvision v3 MNv3-L", torchvision_v3("mobilenet_v3_large"), 11.03, gmac_os16=10.45, with_aux=True),
]
CASES = [(row, stride) for row in ROWS for stride in row.figures]


def measure(row: Row, output_stride: int) -> tuple[float, float]:
    config = ModelConfig.model_validate({"classes": CLASSES, "output_stride": output_stride} | row.graph)
    with torch.device("meta"):
        model = build_model(config).eval()
        images_NCHW = torch.empty(1, 3, SIZE_PX, SIZE_PX)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if row.with_aux:
            model.forward_with_aux(images_NCHW)
        else:
            model(images_NCHW)
    # The counter counts a multiply-add as two operations.
    num_params = sum(parameter.numel() for parameter in model.parameters())
    return num_params / 1e6, counter.get_total_flops() / 2 / 1e9


def rounding(figure: float) -> float:
    """Half a unit of the last printed digit: the table cannot be met more closely than it is written."""
    decimals = len(str(figure).partition(".")[2])
    return 0.5 * 10.0**-decimals


@pytest.mark.parametrize(("row", "output_stride"), CASES, ids=[f"{row.name} OS{os}" for row, os in CASES])
def test_parameters_and_macs_match_the_reference_table(row: Row, output_stride: int) -> None:
    params_m, gmac = measure(row, output_stride)
    expected = row.figures[output_stride]
    assert params_m == pytest.approx(row.params_m, abs=max(0.002 * row.params_m, rounding(row.params_m)))
    assert gmac == pytest.approx(expected, abs=max(0.002 * expected, rounding(expected)))
