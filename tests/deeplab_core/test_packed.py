"""A packed network is the same network."""

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from deeplab_core.config import ModelConfig
from deeplab_core.model import build_model
from deeplab_core.packed import FusedBottleneck, can_pack, pack
from deeplab_core.packed_conv import PackedConv2d
from deeplab_core.prepare import prepare_for_inference
from deeplab_core.segmenter import Segmenter
from deeplab_core.winograd import WinogradConv2d
from tests.deeplab_core.random_models import random_images, randomised

pytestmark = pytest.mark.skipif(not can_pack(), reason="this build of torch has no oneDNN")

NETWORKS: list[dict[str, Any]] = [
    {"backbone": "resnet50"},
    {"backbone": "resnet18", "in_channels": 5},
    {"backbone": "mobilenet_v3_large", "output_stride": 8},
    {"arch": "deeplabv3", "backbone": "resnet50"},
    {"backbone": "resnet18", "separable": True},
    {"backbone": "resnet18", "decoder_convs": 1},
]


def model_of(**options: Any) -> Segmenter:
    torch.manual_seed(0)
    return randomised(build_model(ModelConfig(**({"classes": ("a", "b", "c")} | options))))


@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_it_errs_no_more_than_bf16_does(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(**options)
    images_NCHW = random_images(2, model.config.in_channels, 97, 97)
    packed = prepare_for_inference(model, precision="bf16", compile=False, size_px=97)
    monkeypatch.setattr("deeplab_core.prepare.can_pack", lambda: False)
    plain = prepare_for_inference(model, precision="bf16", compile=False, size_px=97)
    assert packed.preparation.packed > 0 == plain.preparation.packed
    with torch.inference_mode():
        exact = model.lattice(images_NCHW)
    error, error_of_bf16 = (
        (prepared.lattice(images_NCHW).float() - exact).square().mean().sqrt() for prepared in (packed, plain)
    )
    assert error < 1.5 * error_of_bf16


def test_packing_alone_changes_no_bit() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 24, 3, stride=2, padding=1).bfloat16().requires_grad_(requires_grad=False)
    images_NCHW = torch.randn(1, 16, 33, 33).bfloat16().to(memory_format=torch.channels_last)
    packed = PackedConv2d(conv, images_NCHW.shape)
    assert torch.equal(packed(images_NCHW), conv(images_NCHW))
    assert torch.equal(
        PackedConv2d(conv, images_NCHW.shape, relu=True)(images_NCHW), conv(images_NCHW).relu()
    )
    larger_NCHW = torch.randn(1, 16, 65, 49).bfloat16().to(memory_format=torch.channels_last)
    assert torch.equal(packed(larger_NCHW), conv(larger_NCHW))


def test_every_residual_block_of_a_resnet50_is_fused() -> None:
    model = model_of(backbone="resnet50")
    prepared = prepare_for_inference(model, precision="bf16", compile=False, size_px=33)
    parts = list(prepared._model.modules())
    assert sum(isinstance(part, FusedBottleneck) for part in parts) == 16
    assert not any(isinstance(part, Bottleneck) for part in parts)
    assert sum(isinstance(part, WinogradConv2d) for part in parts) == 4  # the decoder's and layer4's three


def test_blocks_whose_norms_are_not_folded_stay() -> None:
    model = model_of(backbone="resnet50").to(memory_format=torch.channels_last).bfloat16()
    model.requires_grad_(requires_grad=False)
    with torch.inference_mode():
        pack(model, random_images(1, 3, 33, 33).bfloat16())
    assert sum(isinstance(part, Bottleneck) for part in model.modules()) == 16


@pytest.mark.parametrize("options", NETWORKS[:3], ids=str)
def test_in_fp32_it_is_the_same_network(options: dict[str, Any]) -> None:
    model = model_of(**options)
    images_NCHW = random_images(2, model.config.in_channels, 97, 97)
    packed = prepare_for_inference(model, precision="fp32", size_px=97)
    assert packed.preparation.packed > 0
    assert not packed.preparation.compiled
    with torch.inference_mode():
        exact = model.lattice(images_NCHW)
    assert (packed.lattice(images_NCHW) - exact).abs().max() < 1e-5 * exact.abs().max()


def test_fp16_and_other_layouts_are_left_as_they_are() -> None:
    model = model_of(backbone="resnet18")
    for options in ({"precision": "fp16"}, {"precision": "bf16", "channels_last": False}):
        assert prepare_for_inference(model, compile=False, size_px=33, **options).preparation.packed == 0


def test_unasked_it_is_packed_and_not_compiled() -> None:
    preparation = prepare_for_inference(
        model_of(backbone="resnet18"), precision="bf16", size_px=33
    ).preparation
    assert not preparation.compiled
    assert preparation.packed > 0
    assert "packed" in preparation.reason
