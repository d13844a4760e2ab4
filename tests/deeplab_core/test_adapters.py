"""Networks of other libraries run through the same methods, at any input size, with their own numbers."""

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import get_model

from deeplab_core.adapters import Adapter
from deeplab_core.config import ModelConfig
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter
from tests.deeplab_core.random_models import random_images, randomised, relative_difference

CLASSES = ("water", "forest", "built")


def adapter_of(arch: str, **options: Any) -> Adapter:
    if arch.startswith("smp/"):
        pytest.importorskip("segmentation_models_pytorch")
        options = {"backbone": "resnet18"} | options
    torch.manual_seed(0)
    model = build_model(ModelConfig.model_validate({"arch": arch, "classes": CLASSES} | options))
    assert isinstance(model, Adapter)
    return randomised(model)


SMP_STRIDES = {
    "smp/Unet": 1,
    "smp/UnetPlusPlus": 1,
    "smp/Linknet": 1,
    "smp/FPN": 4,
    "smp/UPerNet": 4,
    "smp/PSPNet": 4,
    "smp/DeepLabV3": 4,
}


class TestSizes:
    @pytest.mark.parametrize("arch", [*SMP_STRIDES, "torchvision/fcn_resnet50"])
    @pytest.mark.parametrize("size_px", [(129, 65), (67, 34), (1, 1)])
    def test_any_size_gives_logits_of_that_size_and_its_nodes(
        self, arch: str, size_px: tuple[int, int]
    ) -> None:
        model = adapter_of(arch)
        stride = SMP_STRIDES.get(arch, 4)
        images_NCHW = random_images(2, 3, *size_px)
        with torch.inference_mode():
            logits_NKHW, nodes_NKHW = model(images_NCHW), model.lattice(images_NCHW)
        assert model.lattice_stride == stride
        assert logits_NKHW.shape == (2, 3, *size_px)
        assert relative_difference(nodes_NKHW, logits_NKHW[:, :, ::stride, ::stride]) < 1e-5

    @pytest.mark.parametrize(
        ("arch", "options", "stride"),
        [
            ("smp/Segformer", {"backbone": "mit_b0"}, 4),
            ("smp/Unet", {"backbone": "tu-mobilenetv3_small_050"}, 1),
            (
                "smp/DPT",
                {"backbone": "tu-vit_tiny_patch16_224", "arch_options": {"dynamic_img_size": True}},
                2,
            ),
        ],
    )
    def test_other_encoders_too(self, arch: str, options: dict[str, Any], stride: int) -> None:
        model = adapter_of(arch, **options)
        with torch.inference_mode():
            assert model(random_images(1, 3, 65, 49)).shape == (1, 3, 65, 49)
            assert model.lattice(random_images(1, 3, 65, 49)).shape == (
                1,
                3,
                64 // stride + 1,
                48 // stride + 1,
            )

    def test_crops_of_k_strides_plus_one_fit(self) -> None:
        model = adapter_of("smp/FPN")
        model.check_input_size(513, 517)
        with pytest.raises(ValueError, match=r"k·4 \+ 1 px for smp/FPN, got 512 px"):
            model.check_input_size(512, 513)


class TestNumbers:
    def test_sizes_that_the_network_accepts_reach_it_unchanged(self) -> None:
        model = adapter_of("smp/FPN")
        images_NCHW = random_images(1, 3, 64, 96)
        with torch.inference_mode():
            assert torch.equal(model(images_NCHW), model.network(images_NCHW))

    def test_other_sizes_repeat_the_edge_and_are_cut_back(self) -> None:
        model = adapter_of("smp/FPN")
        images_NCHW = random_images(1, 3, 65, 33)
        padded = torch.cat([images_NCHW, images_NCHW[:, :, -1:].expand(-1, -1, 31, -1)], dim=2)
        padded = torch.cat([padded, padded[:, :, :, -1:].expand(-1, -1, -1, 31)], dim=3)
        with torch.inference_mode():
            expected = model.network(padded)[:, :, :65, :33]
            assert relative_difference(model(images_NCHW), expected) < 1e-6

    def test_torchvision_outputs_are_its_own(self) -> None:
        network = randomised(
            get_model("fcn_resnet50", weights=None, weights_backbone=None, num_classes=3, aux_loss=True)
        )
        model = adapter_of("torchvision/fcn_resnet50", aux_head=True)
        model.network.load_state_dict(network.state_dict())
        images_NCHW = random_images(1, 3, 65, 50)
        with torch.inference_mode():
            expected = network(images_NCHW)
            logits_NKHW, aux_NKHW = model.forward_with_aux(images_NCHW)
            assert aux_NKHW is not None
            assert relative_difference(logits_NKHW, expected["out"]) < 1e-6
            assert relative_difference(aux_NKHW, expected["aux"]) < 1e-6
            assert relative_difference(model(images_NCHW), expected["out"]) < 1e-6

    def test_torchvision_outputs_without_an_auxiliary_head_are_its_own(self) -> None:
        name = "lraspp_mobilenet_v3_large"
        network = randomised(get_model(name, weights=None, weights_backbone=None, num_classes=3))
        model = adapter_of(f"torchvision/{name}")
        model.network.load_state_dict(network.state_dict())
        images_NCHW = random_images(2, 3, 65, 50)
        with torch.inference_mode():
            assert relative_difference(model(images_NCHW), network(images_NCHW)["out"]) < 1e-6

    def test_inference_does_not_pay_for_the_auxiliary_head(self) -> None:
        model = adapter_of("torchvision/fcn_resnet50", aux_head=True)
        called: list[nn.Module] = []
        model.network.aux_classifier.register_forward_hook(lambda module, *_: called.append(module))
        with torch.inference_mode():
            model.lattice(random_images(1, 3, 33, 33))
        assert called == []

    @pytest.mark.parametrize("arch", ["smp/Unet", "smp/FPN", "torchvision/lraspp_mobilenet_v3_large"])
    def test_any_number_of_bands(self, arch: str) -> None:
        model = adapter_of(arch, in_channels=5)
        with torch.inference_mode():
            images_NCHW = random_images(1, 5, 65, 65)
            logits_NKHW = model(images_NCHW)
            assert logits_NKHW.shape == (1, 3, 65, 65)
            for band in range(5):
                changed = images_NCHW.clone()
                changed[:, band] += 1
                assert not torch.allclose(model(changed), logits_NKHW), f"band {band} has no effect"


class TestGraph:
    @pytest.mark.parametrize("arch", ["smp/Unet", "torchvision/fcn_resnet50"])
    def test_every_parameter_gets_a_gradient_and_a_group(self, arch: str) -> None:
        model: Segmenter = adapter_of(arch, **({"aux_head": True} if "fcn" in arch else {})).train()
        logits_NKHW, aux_NKHW = model.forward_with_aux(random_images(2, 3, 65, 65))
        loss = logits_NKHW.square().mean()
        if aux_NKHW is not None:
            loss = loss + aux_NKHW.square().mean()
        loss.backward()
        assert [name for name, value in model.named_parameters() if value.grad is None] == []
        groups = model.parameter_groups()
        assert sum(map(len, groups.values())) == len(list(model.parameters()))
        assert all(
            name.startswith(("network.encoder.", "network.backbone.")) for name in self.names_in(model)
        )
        assert groups["head"]

    @staticmethod
    def names_in(model: Segmenter) -> list[str]:
        encoder = {id(parameter) for parameter in model.parameter_groups()["encoder"]}
        return [name for name, value in model.named_parameters() if id(value) in encoder]

    def test_state_dict_is_the_networks_own(self) -> None:
        smp = pytest.importorskip("segmentation_models_pytorch")
        theirs = smp.Unet("resnet18", encoder_weights=None, classes=3).state_dict()
        assert list(adapter_of("smp/Unet").state_dict()) == [f"network.{name}" for name in theirs]

    def test_options_reach_the_constructor(self) -> None:
        model = adapter_of("smp/Unet", arch_options={"decoder_channels": [32, 16, 8, 8, 4]})
        assert model.network.segmentation_head[0].in_channels == 4
        rebuilt = build_model(ModelConfig.model_validate_json(model.config.model_dump_json()))
        rebuilt.load_state_dict(model.state_dict())


class TestRefusals:
    @pytest.mark.parametrize(
        ("arch", "options", "sentence"),
        [
            ("smp/Yolo", {}, "must be one of DPT, DeepLabV3, .* got 'smp/Yolo'"),
            (
                "smp/Unet",
                {"arch_options": {"decoder_depth": 3}},
                r"among .*decoder_channels.* got \['decoder_depth'\]",
            ),
            ("smp/Unet", {"arch_options": {"decoder_channels": 5}}, r"must accept .*'decoder_channels': 5"),
            ("smp/Unet", {"backbone": "resnet19"}, "must accept backbone 'resnet19'"),
            (
                "torchvision/resnet_50",
                {},
                "must be one of deeplabv3_mobilenet_v3_large, .* got 'torchvision/resnet_50'",
            ),
            ("torchvision/lraspp_mobilenet_v3_large", {"aux_head": True}, "has no auxiliary head"),
        ],
    )
    def test_say_what_the_library_offers(self, arch: str, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            adapter_of(arch, **options)

    def test_logits_at_another_size_are_refused(self) -> None:
        model = adapter_of("smp/FPN", arch_options={"upsampling": 2})
        with pytest.raises(ValueError, match=r"logits at input size, got \(32, 32\) for \(64, 64\) px"):
            model(F.pad(random_images(1, 3, 33, 33), (0, 31, 0, 31)))

    def test_a_missing_library_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
        with pytest.raises(
            ImportError, match=r"arch 'smp/Unet' needs segmentation_models_pytorch.*terrazzo\[smp\]"
        ):
            build_model(ModelConfig(arch="smp/Unet", classes=CLASSES))
