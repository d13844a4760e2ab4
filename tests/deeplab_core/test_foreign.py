"""Importing another library's weights gives that library's outputs, or is refused with every reason."""

import logging
from collections import Counter
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from deeplab_core.config import ModelConfig
from deeplab_core.foreign import from_smp, from_timm_backbone, from_torchvision, from_vainf
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter
from tests.deeplab_core.random_models import random_images, randomised, relative_difference
from tests.deeplab_core.vainf_reference import VainF

CLASSES = ("water", "forest", "built")
TOLERANCE = 1e-5


def config_of(**options: Any) -> ModelConfig:
    return ModelConfig.model_validate({"classes": CLASSES} | options)


@torch.inference_mode()
def assert_equal_outputs(model: Segmenter, expected_NKHW: Tensor, images_NCHW: Tensor) -> None:
    """The imported model, and the one rebuilt from its recorded config alone, give the expected logits."""
    assert relative_difference(model.eval()(images_NCHW), expected_NKHW) <= TOLERANCE
    rebuilt = build_model(ModelConfig.model_validate_json(model.config.model_dump_json())).eval()
    rebuilt.load_state_dict(model.state_dict())
    assert relative_difference(rebuilt(images_NCHW), expected_NKHW) <= TOLERANCE


def assert_same_convolutions(model: nn.Module, network: nn.Module) -> None:
    """Both hold the same convolutions. Small images do not reach large rates; this does."""
    assert convolutions(model) == convolutions(network)


def convolutions(model: nn.Module) -> Counter[tuple[object, ...]]:
    return Counter(
        # smp also sets the dilation of 1×1 kernels, where it means nothing.
        (
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.dilation if conv.kernel_size != (1, 1) else None,
            conv.padding,
            conv.groups,
        )
        for conv in model.modules()
        if isinstance(conv, nn.Conv2d)
    )


def torchvision_deeplab(name: str, *, aux: bool = True) -> nn.Module:
    network = get_model(name, weights=None, weights_backbone=None, num_classes=len(CLASSES), aux_loss=aux)
    return randomised(network)


class TestTorchvision:
    @pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "mobilenet_v3_large"])
    def test_outputs_are_equal_with_the_auxiliary_head(self, backbone: str) -> None:
        network = torchvision_deeplab(f"deeplabv3_{backbone}")
        # Everything that torchvision does otherwise is set otherwise, to show that it is overridden.
        config = config_of(
            backbone=backbone, output_stride=32, separable=True, aux_head=True, decoder_convs=3
        )
        model = from_torchvision(network.state_dict(), config).eval()
        images_NCHW = random_images(1, 3, 65, 90)
        with torch.inference_mode():
            expected = network(images_NCHW)
            _, aux_NKHW = model.forward_with_aux(images_NCHW)
        assert_equal_outputs(model, expected["out"], images_NCHW)
        assert_same_convolutions(model, network)
        assert aux_NKHW is not None
        assert relative_difference(aux_NKHW, expected["aux"]) <= TOLERANCE

    def test_lattice_keeps_torchvisions_alignment(self) -> None:
        network = torchvision_deeplab("deeplabv3_mobilenet_v3_large")
        config = config_of(backbone="mobilenet_v3_large", aux_head=True)
        model = from_torchvision(network.state_dict(), config).eval()
        images_NCHW = random_images(1, 3, 65, 97)
        with torch.inference_mode():
            expected = network(images_NCHW)["out"][:, :, ::4, ::4]
            assert relative_difference(model.lattice(images_NCHW), expected) <= TOLERANCE

    def test_published_weights_are_not_looked_for(self) -> None:
        weights = torchvision_deeplab("deeplabv3_mobilenet_v3_large", aux=False).state_dict()
        model = from_torchvision(weights, config_of(backbone="mobilenet_v3_large", pretrained=True))
        assert not model.config.pretrained

    def test_auxiliary_weights_without_a_head_are_dropped_and_listed(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        network = torchvision_deeplab("deeplabv3_mobilenet_v3_large")
        with caplog.at_level(logging.WARNING, logger="deeplab_core.foreign"):
            model = from_torchvision(network.state_dict(), config_of(backbone="mobilenet_v3_large"))
        assert not any(name.startswith("aux_head") for name in model.state_dict())
        assert "aux_head.conv.0.weight" in caplog.text
        assert "aux_head.logits.bias" in caplog.text
        assert "backbone" not in caplog.text

    def test_every_weight_that_does_not_fit_is_named(self) -> None:
        weights = torchvision_deeplab("deeplabv3_mobilenet_v3_large", aux=False).state_dict()
        weights["classifier.9.weight"] = torch.zeros(1)
        del weights["classifier.1.weight"]
        config = config_of(backbone="mobilenet_v3_large", classes=("a", "b"), aux_head=True)
        with pytest.raises(ValueError, match="must fit deeplabv3 on mobilenet_v3_large") as refusal:
            from_torchvision(weights, config)
        text = str(refusal.value)
        assert "unexpected: classifier.9.weight" in text
        assert "missing: head.conv.0.weight" in text
        assert "missing: aux_head.logits.bias" in text
        assert "shape: head.logits.weight must be (2, 256, 1, 1), got (3, 256, 1, 1)" in text
        assert "backbone" not in text

    def test_other_networks_load_behind_the_adapter(self) -> None:
        network = torchvision_deeplab("fcn_resnet50")
        config = config_of(arch="torchvision/fcn_resnet50", aux_head=True)
        images_NCHW = random_images(1, 3, 65, 65)
        with torch.inference_mode():
            expected_NKHW = network(images_NCHW)["out"]
        assert_equal_outputs(from_torchvision(network.state_dict(), config), expected_NKHW, images_NCHW)

    def test_a_backbone_that_torchvision_does_not_have_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"backbone must be one of resnet18.* got 'xception65'"):
            from_torchvision({}, config_of(backbone="xception65"))

    def test_another_librarys_arch_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"arch must be one of our own.* got 'smp/Unet'"):
            from_torchvision({}, config_of(arch="smp/Unet"))


class TestSmp:
    @pytest.mark.parametrize(
        ("backbone", "output_stride", "options"),
        [
            ("resnet18", 16, {}),
            ("resnet18", 8, {}),
            ("resnet50", 16, {}),
            ("resnet50", 8, {}),
            ("resnet18", 16, {"decoder_aspp_separable": False}),
            ("resnet18", 16, {"in_channels": 5}),
            ("timm/mobilenetv3_small_050", 16, {}),
        ],
    )
    def test_outputs_are_equal(self, backbone: str, output_stride: int, options: dict[str, Any]) -> None:
        smp = pytest.importorskip("segmentation_models_pytorch")
        network = randomised(
            smp.DeepLabV3Plus(
                encoder_name=backbone.replace("timm/", "tu-"),
                encoder_weights=None,
                encoder_output_stride=output_stride,
                classes=len(CLASSES),
                **options,
            )
        )
        in_channels = options.get("in_channels", 3)
        config = config_of(
            backbone=backbone, output_stride=output_stride, in_channels=in_channels, align_corners=False
        )
        images_NCHW = random_images(1, in_channels, 64, 96)
        with torch.inference_mode():
            expected_NKHW = network(images_NCHW)
        model = from_smp(network.state_dict(), config)
        assert_equal_outputs(model, expected_NKHW, images_NCHW)
        assert_same_convolutions(model, network)

    def test_rates_that_are_not_smps_default_can_be_stated(self) -> None:
        smp = pytest.importorskip("segmentation_models_pytorch")
        network = randomised(
            smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=3, decoder_atrous_rates=(2, 3, 4))
        )
        images_NCHW = random_images(1, 3, 128, 128)
        with torch.inference_mode():
            expected_NKHW = network(images_NCHW)
        config = config_of(backbone="resnet18")
        assert_equal_outputs(
            from_smp(network.state_dict(), config, rates=(2, 3, 4)), expected_NKHW, images_NCHW
        )
        with torch.inference_mode():
            with_default = from_smp(network.state_dict(), config).eval()(images_NCHW)
        assert relative_difference(with_default, expected_NKHW) > 0.01

    def test_a_classification_head_is_dropped_and_listed(self, caplog: pytest.LogCaptureFixture) -> None:
        smp = pytest.importorskip("segmentation_models_pytorch")
        network = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=3, aux_params={"classes": 7})
        with caplog.at_level(logging.WARNING, logger="deeplab_core.foreign"):
            from_smp(network.state_dict(), config_of(backbone="resnet18"))
        assert "classification_head.3.weight" in caplog.text

    def test_other_classes_load_behind_the_adapter_strictly(self) -> None:
        smp = pytest.importorskip("segmentation_models_pytorch")
        network = randomised(smp.Unet("resnet18", encoder_weights=None, classes=3))
        config = config_of(arch="smp/Unet", backbone="resnet18")
        images_NCHW = random_images(1, 3, 64, 64)
        with torch.inference_mode():
            expected_NKHW = network(images_NCHW)
        assert_equal_outputs(from_smp(network.state_dict(), config), expected_NKHW, images_NCHW)
        with pytest.raises(ValueError, match="must fit smp/Unet on resnet34") as refusal:
            from_smp(network.state_dict(), config_of(arch="smp/Unet", backbone="resnet34"))
        assert "missing: network.encoder.layer1.2.conv1.weight" in str(refusal.value)

    def test_output_stride_32_does_not_exist_there(self) -> None:
        with pytest.raises(ValueError, match="output_stride must be 8 or 16 to import smp"):
            from_smp({}, config_of(backbone="resnet18", output_stride=32))


class TestVainF:
    @pytest.mark.parametrize(
        ("plus", "output_stride", "separable"),
        [(True, 16, False), (True, 8, False), (True, 16, True), (False, 16, False)],
    )
    def test_outputs_are_equal(self, plus: bool, output_stride: int, separable: bool) -> None:
        network = randomised(
            VainF(plus=plus, output_stride=output_stride, num_classes=len(CLASSES), separable=separable)
        )
        # v3 weights are recognised by their names even where the config says v3+, and the other way round.
        config = config_of(arch="deeplabv3" if plus else "deeplabv3plus", output_stride=output_stride)
        images_NCHW = random_images(1, 3, 65, 90)
        with torch.inference_mode():
            expected_NKHW = network(images_NCHW)
        model = from_vainf({"model_state": network.state_dict(), "cur_itrs": 30000}, config)
        assert model.config.arch == ("deeplabv3plus" if plus else "deeplabv3")
        assert_equal_outputs(model, expected_NKHW, images_NCHW)
        assert_same_convolutions(model, network)

    def test_batch_norm_momentum_is_vainfs(self) -> None:
        weights = VainF(plus=True, output_stride=16, num_classes=len(CLASSES)).state_dict()
        model = from_vainf(weights, config_of())
        momenta = {
            name.partition(".")[0]: layer.momentum
            for name, layer in model.named_modules()
            if isinstance(layer, nn.BatchNorm2d)
        }
        assert momenta == {"backbone": 0.01, "head": 0.1}


class TestTimmBackbone:
    @pytest.mark.parametrize(
        ("backbone", "timm_name", "output_stride"),
        [
            ("resnet50", "resnet50", 32),
            ("resnet50", "resnet50", 16),
            ("resnet18", "resnet18", 8),
            ("xception65", "xception65", 16),
            ("timm/resnet18", "resnet18", 16),
        ],
    )
    def test_thirteen_band_features_are_equal(
        self, backbone: str, timm_name: str, output_stride: int
    ) -> None:
        network = randomised(timm.create_model(timm_name, in_chans=13, output_stride=output_stride))
        config = config_of(backbone=backbone, in_channels=13, output_stride=output_stride)
        model = from_timm_backbone(network.state_dict(), config).eval()
        images_NCHW = random_images(1, 13, 65, 65)
        with torch.inference_mode():
            expected = network.forward_features(images_NCHW)
            assert relative_difference(model.encoder(images_NCHW).out_NCHW, expected) <= TOLERANCE
        assert_same_convolutions(model.encoder, network)

    def test_the_classifier_is_dropped_and_listed(self, caplog: pytest.LogCaptureFixture) -> None:
        weights = timm.create_model("resnet18", num_classes=10).state_dict()
        with caplog.at_level(logging.WARNING, logger="deeplab_core.foreign"):
            from_timm_backbone(weights, config_of(backbone="resnet18"))
        assert "fc.bias, fc.weight" in caplog.text

    def test_another_number_of_bands_is_refused(self) -> None:
        weights = timm.create_model("resnet18", in_chans=13, num_classes=0).state_dict()
        with pytest.raises(
            ValueError, match=r"shape: conv1.weight must be \(64, 4, 7, 7\), got \(64, 13, 7, 7\)"
        ):
            from_timm_backbone(weights, config_of(backbone="resnet18", in_channels=4))

    def test_torchvisions_mobilenet_is_not_timms(self) -> None:
        with pytest.raises(ValueError, match="backbone='timm/mobilenetv3_large_100'"):
            from_timm_backbone({}, config_of(backbone="mobilenet_v3_large"))
