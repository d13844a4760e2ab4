"""Published weights come from the libraries' own caches, and their stems fit any bands."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import MobileNet_V3_Large_Weights, ResNet18_Weights, get_model

from deeplab_core.config import ModelConfig
from deeplab_core.model import build_model
from deeplab_core.stem import inflate_stem
from tests.deeplab_core.random_models import random_images, relative_difference

CLASSES = ("a", "b")
R, G, B = 0, 1, 2


@pytest.fixture
def torch_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache, where torchvision keeps its weights, without a network behind it."""

    def no_network(url: str, *_: object, **__: object) -> None:
        raise URLError(f"no network for {url}")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def hugging_face_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, where timm keeps its weights, without a network behind it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def publish_on_hugging_face(
    cache: Path, repository: str, weights: dict[str, Tensor], *, commit: str = "0" * 40
) -> None:
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    save_file(weights, folder / "snapshots" / commit / "model.safetensors")
    (folder / "snapshots" / commit / "config.json").write_text("{}")


def slices(*sources: Tensor) -> Tensor:
    return torch.stack(sources, dim=1)


class TestInflateStem:
    weight = random_images(4, 3, 7, 7)
    mean = weight.mean(dim=1)

    @pytest.mark.parametrize(
        ("bands", "in_channels", "sources", "scale"),
        [
            (("red", "green", "blue"), 3, [R, G, B], 1.0),
            (("blue", "Green", " RED "), 3, [B, G, R], 1.0),
            (("b", "g", "r", "nir"), 4, [B, G, R, "mean"], 3 / 4),
            (("nir", "red", "green"), 3, ["mean", R, G], 1.0),
            (("red", "nir"), 2, [R, "mean"], 3 / 2),
            (("vv", "vh"), 2, [R, G], 3 / 2),
            (None, 3, [R, G, B], 1.0),
            (None, 5, [R, G, B, R, G], 3 / 5),
        ],
    )
    def test_each_band_gets_its_weights(
        self, bands: tuple[str, ...] | None, in_channels: int, sources: list[Any], scale: float
    ) -> None:
        expected = slices(*(self.mean if s == "mean" else self.weight[:, s] for s in sources)) * scale
        torch.testing.assert_close(inflate_stem(self.weight, in_channels, bands=bands), expected)

    @pytest.mark.parametrize("bands", [None, ("red",), ("pan",)])
    def test_one_band_gets_the_sum(self, bands: tuple[str, ...] | None) -> None:
        expected = self.weight.sum(dim=1, keepdim=True)
        torch.testing.assert_close(inflate_stem(self.weight, 1, bands=bands), expected)

    def test_other_stems_are_refused(self) -> None:
        with pytest.raises(ValueError, match="must have 3 input channels to be inflated, got 4"):
            inflate_stem(torch.zeros(4, 4, 3, 3), 5, bands=None)


class TestTorchvision:
    def test_cached_weights_fill_the_encoder_and_its_stem(self, torch_cache: Path) -> None:
        published = get_model("resnet18", weights=None).state_dict()
        torch.save(published, torch_cache / Path(ResNet18_Weights.DEFAULT.url).name)
        bands = ("nir", "red", "green", "blue")
        config = ModelConfig(
            backbone="resnet18", classes=CLASSES, bands=bands, in_channels=4, pretrained=True
        )
        encoder = build_model(config).encoder.state_dict()
        stem = published["conv1.weight"]
        expected = slices(stem.mean(dim=1), stem[:, R], stem[:, G], stem[:, B]) * 3 / 4
        torch.testing.assert_close(encoder.pop("conv1.weight"), expected)
        for name, value in encoder.items():
            assert torch.equal(value, published[name]), name

    def test_adapters_start_from_them_too(self, torch_cache: Path) -> None:
        published = get_model("mobilenet_v3_large", weights=None).state_dict()
        torch.save(published, torch_cache / Path(MobileNet_V3_Large_Weights.DEFAULT.url).name)
        config = ModelConfig(
            arch="torchvision/lraspp_mobilenet_v3_large", classes=CLASSES, in_channels=1, pretrained=True
        )
        encoder = build_model(config).encoder.state_dict()
        expected = published["features.0.0.weight"].sum(dim=1, keepdim=True)
        torch.testing.assert_close(encoder["0.0.weight"], expected)
        assert torch.equal(encoder["16.0.weight"], published["features.16.0.weight"])

    @pytest.mark.usefixtures("torch_cache")
    def test_an_empty_cache_without_a_network_is_explained(self) -> None:
        config = ModelConfig(backbone="mobilenet_v3_large", classes=CLASSES, pretrained=True)
        with pytest.raises(
            RuntimeError, match=r"weights of backbone 'mobilenet_v3_large' must be in .*no network"
        ):
            build_model(config)


class TestTimm:
    def test_cached_weights_fill_a_dilated_encoder(self, hugging_face_cache: Path) -> None:
        network = timm.create_model("mobilenetv3_small_050.lamb_in1k").eval()
        publish_on_hugging_face(
            hugging_face_cache, "timm/mobilenetv3_small_050.lamb_in1k", network.state_dict()
        )
        config = ModelConfig(
            backbone="timm/mobilenetv3_small_050.lamb_in1k", classes=CLASSES, pretrained=True, output_stride=8
        )
        encoder = build_model(config).encoder.eval()
        images_NCHW = random_images(1, 3, 65, 65)
        with torch.inference_mode():
            # Before the first stride that became dilation the features are those of the network itself.
            expected = network.blocks[:1](network.bn1(network.conv_stem(images_NCHW)))
            assert relative_difference(encoder(images_NCHW).low_NCHW, expected) < 1e-6
        last = encoder.state_dict()["model.blocks.4.0.conv_pw.weight"]
        assert torch.equal(last, network.state_dict()["blocks.4.0.conv_pw.weight"])

    @pytest.mark.usefixtures("hugging_face_cache")
    @pytest.mark.parametrize("backbone", ["xception65", "timm/resnet18"])
    def test_an_empty_cache_without_a_network_is_explained(self, backbone: str) -> None:
        config = ModelConfig(backbone=backbone, classes=CLASSES, pretrained=True)
        with pytest.raises(RuntimeError, match=f"published weights of backbone '{backbone}' must be in"):
            build_model(config)


class TestSmp:
    def test_cached_weights_fill_the_encoder_by_band_name(self, hugging_face_cache: Path) -> None:
        smp = pytest.importorskip("segmentation_models_pytorch")
        published = get_model("resnet18", weights=None).state_dict()
        source = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
        publish_on_hugging_face(hugging_face_cache, source["repo_id"], published, commit=source["revision"])
        bands = ("blue", "green", "red", "nir")
        config = ModelConfig(
            arch="smp/Unet", backbone="resnet18", classes=CLASSES, in_channels=4, bands=bands, pretrained=True
        )
        encoder = build_model(config).encoder.state_dict()
        stem = published["conv1.weight"]
        expected = slices(stem[:, B], stem[:, G], stem[:, R], stem.mean(dim=1)) * 3 / 4
        torch.testing.assert_close(encoder["conv1.weight"], expected)
        assert torch.equal(encoder["layer4.1.conv2.weight"], published["layer4.1.conv2.weight"])
