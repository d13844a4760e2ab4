"""Encoders keep pretrained features exact at every output stride, and their libraries' names."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from deeplab_core.backbone import Encoder, build_encoder
from tests.deeplab_core.random_models import random_images, randomised, relative_difference


def encoder_of(name: str, output_stride: int, *, in_channels: int = 3, **options: Any) -> Encoder:
    return build_encoder(name, in_channels=in_channels, output_stride=output_stride, **options)


def with_weights_of(encoder: Encoder, source: Encoder) -> Encoder:
    encoder.load_state_dict(source.state_dict())
    return encoder.eval()


def dilations(module: nn.Module) -> list[int]:
    """Dilations of the 3×3 convolutions in order."""
    return [
        layer.dilation[0]
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ]


class TestAtrousConsistency:
    """Dilating instead of striding computes the same features, only more of them."""

    @pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "timm/resnet18"])
    @pytest.mark.parametrize("size_px", [(129, 129), (128, 133)])
    def test_features_at_stride_16_and_8_contain_those_at_32(
        self, backbone: str, size_px: tuple[int, int]
    ) -> None:
        strided = randomised(encoder_of(backbone, 32))
        images_NCHW = random_images(1, 3, *size_px)
        with torch.inference_mode():
            expected = strided(images_NCHW).out_NCHW
            for output_stride in (16, 8):
                encoder = with_weights_of(encoder_of(backbone, output_stride), strided)
                step = 32 // output_stride
                features = encoder(images_NCHW).out_NCHW[:, :, ::step, ::step]
                assert relative_difference(features, expected) < 1e-5

    def test_so_do_those_of_xception(self) -> None:
        strided = randomised(encoder_of("xception65", 32))
        images_NCHW = random_images(1, 3, 65, 65)
        with torch.inference_mode():
            expected = strided(images_NCHW).out_NCHW
            dense = with_weights_of(encoder_of("xception65", 8), strided)(images_NCHW).out_NCHW
        assert relative_difference(dense[:, :, ::4, ::4], expected) < 1e-5

    def test_the_rule_of_smp_is_not_consistent(self) -> None:
        """The check above sees the difference that it is there to see."""
        strided = randomised(encoder_of("resnet50", 32))
        dilated = with_weights_of(encoder_of("resnet50", 16, dilate_first="all"), strided)
        images_NCHW = random_images(1, 3, 129, 129)
        with torch.inference_mode():
            difference = relative_difference(
                dilated(images_NCHW).out_NCHW[:, :, ::2, ::2], strided(images_NCHW).out_NCHW
            )
        assert difference > 0.01


class TestDilation:
    @pytest.mark.parametrize(
        ("options", "layer3", "layer4"),
        [
            ({"output_stride": 32}, [1] * 6, [1, 1, 1]),
            ({"output_stride": 16}, [1] * 6, [1, 2, 2]),
            ({"output_stride": 8}, [1, 2, 2, 2, 2, 2], [2, 4, 4]),
            ({"output_stride": 8, "dilate_first": "all"}, [2] * 6, [4, 4, 4]),
            ({"output_stride": 16, "multi_grid": (1, 2, 4)}, [1] * 6, [2, 4, 8]),
            ({"output_stride": 8, "multi_grid": (1, 2, 1)}, [1, 2, 2, 2, 2, 2], [4, 8, 4]),
        ],
    )
    def test_of_resnet_units(self, options: dict[str, Any], layer3: list[int], layer4: list[int]) -> None:
        encoder: Any = encoder_of("resnet50", **options)
        assert dilations(encoder.layer3) == layer3
        assert dilations(encoder.layer4) == layer4

    def test_of_basic_blocks(self) -> None:
        encoder: Any = encoder_of("resnet18", 8)
        assert dilations(encoder.layer3) == [1, 2, 2, 2]
        assert dilations(encoder.layer4) == [2, 4, 4, 4]

    @pytest.mark.parametrize("output_stride", [16, 8])
    def test_of_resnet50_is_torchvisions_own(self, output_stride: int) -> None:
        ours: Any = encoder_of("resnet50", output_stride)
        theirs = get_model(
            "resnet50", weights=None, replace_stride_with_dilation=[False, output_stride == 8, True]
        )
        for name in ("layer1", "layer2", "layer3", "layer4"):
            assert str(getattr(ours, name)) == str(getattr(theirs, name))

    def test_of_mobilenet_depthwise_convolutions(self) -> None:
        def depthwise(**options: Any) -> list[int]:
            encoder = encoder_of("mobilenet_v3_large", **options)
            layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
            return [conv.dilation[0] for conv in layers if conv.groups > 1]

        assert depthwise(output_stride=16) == [1] * 13 + [2, 2]
        assert depthwise(output_stride=16, dilate_first="all") == [1] * 12 + [2, 2, 2]
        assert depthwise(output_stride=8) == [1] * 7 + [2] * 6 + [4, 4]


ENCODERS = {
    # name: channels of low, mid and out, and the stride of mid at output stride 32
    "resnet18": (64, 256, 512, 16),
    "resnet34": (64, 256, 512, 16),
    "resnet50": (256, 1024, 2048, 16),
    "mobilenet_v3_large": (24, 40, 960, 8),
    "xception65": (256, 728, 2048, 16),
    "timm/efficientnet_b0": (24, 112, 320, 16),
}


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", ENCODERS)
def test_features_have_the_stated_channels_and_lie_on_the_lattice(name: str, output_stride: int) -> None:
    low, mid, out, mid_stride = ENCODERS[name]
    with torch.device("meta"):
        encoder = encoder_of(name, output_stride, in_channels=5).eval()
        features = encoder(torch.empty(1, 5, 513, 257))
    assert (encoder.low_channels, encoder.mid_channels, encoder.out_channels) == (low, mid, out)
    nodes = {stride: (512 // stride + 1, 256 // stride + 1) for stride in (4, 8, 16, 32)}
    assert features.low_NCHW.shape == (1, low, *nodes[4])
    assert features.mid_NCHW.shape == (1, mid, *nodes[min(mid_stride, output_stride)])
    assert features.out_NCHW.shape == (1, out, *nodes[output_stride])


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v3_large"])
def test_names_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours = encoder_of(name, 16).state_dict()
        theirs = get_model(name, weights=None).state_dict()
    classifier = ("fc.", "classifier.")
    assert list(ours) == [key for key in theirs if not key.startswith(classifier)]


def test_xception_names_are_timms() -> None:
    with torch.device("meta"):
        ours, theirs = encoder_of("xception65", 16), timm.create_model("xception65", num_classes=0)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_xceptions_low_level_feature_is_taken_before_the_relu() -> None:
    encoder = randomised(encoder_of("xception65", 16))
    timms = timm.create_model("xception65", features_only=True, output_stride=16).eval()
    flattened = {
        key.replace("stem.", "stem_").replace("blocks.", "blocks_"): key for key in encoder.state_dict()
    }
    timms.load_state_dict({flat: encoder.state_dict()[key] for flat, key in flattened.items()})
    images_NCHW = random_images(1, 3, 65, 65)
    with torch.inference_mode():
        features, (_, low, *_, out) = encoder(images_NCHW), timms(images_NCHW)
    assert features.low_NCHW.min() < 0
    assert relative_difference(features.low_NCHW.relu(), low) < 1e-6
    assert relative_difference(features.out_NCHW, out) < 1e-6


@pytest.mark.parametrize(
    ("name", "low", "mid"),
    [
        ("resnet18", "layer1", "layer3"),
        ("mobilenet_v3_large", "features.3", "features.4"),
        ("xception65", "blocks.1.stack.conv2", "blocks.18"),
        ("timm/resnet18", "model.layer1", "model.layer3"),
    ],
)
def test_features_are_what_their_layers_gave(name: str, low: str, mid: str) -> None:
    """A later activation that works in place would change low or mid behind the head's back."""
    encoder = randomised(encoder_of(name, 16))
    given: dict[str, Tensor] = {}

    def keep_at(layer: str) -> None:
        def keep(_: nn.Module, __: object, output: Tensor) -> None:
            given[layer] = output.clone()

        encoder.get_submodule(layer).register_forward_hook(keep)

    keep_at(low)
    keep_at(mid)
    with torch.inference_mode():
        features = encoder(random_images(1, 3, 65, 65))
    assert torch.equal(features.low_NCHW, given[low])
    assert torch.equal(features.mid_NCHW, given[mid])


@pytest.mark.parametrize(
    ("name", "output_stride", "sentence"),
    [
        ("vit_tiny_patch16_224", 32, r"must give features at strides 4 and 32, got \[16, 16, 16\]"),
        ("swin_tiny_patch4_window7_224", 32, "must give features as NCHW .* got NHWC"),
        ("swin_tiny_patch4_window7_224", 16, "that timm can dilate to output_stride=16, got TypeError"),
        ("vgg11", 16, "that timm can dilate to output_stride=16, got AssertionError"),
        ("resnet19", 16, "must be a network that timm knows; did you mean one of timm/resnet1"),
    ],
)
def test_networks_that_cannot_serve_are_refused(name: str, output_stride: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence), torch.device("meta"):
        encoder_of(f"timm/{name}", output_stride)
