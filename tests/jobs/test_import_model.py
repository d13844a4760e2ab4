"""The command line brings in another library's model with its own results, or says in one line why not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from deeplab_core import load_checkpoint
from deeplab_core.segmenter import Segmenter
from jobs.import_model import main
from tests.deeplab_core.random_models import random_images, randomised, relative_difference
from tests.pipeline.raster.file_server import served

SCRIPT = Path(__file__).parents[2] / "jobs" / "import_model.py"
CONFIG = {"backbone": "mobilenet_v3_large", "arch": "deeplabv3", "classes": ["a", "b", "c"]}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return randomised(
        get_model("deeplabv3_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=3)
    )


@pytest.fixture
def weights(network: nn.Module, tmp_path: Path) -> Path:
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def words(tmp_path: Path, config: Any, *, weights: Path | str, library: str = "torchvision") -> list[str]:
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    paths = ["--weights", str(weights), "--config", str(tmp_path / "model.yaml")]
    return ["--from", library, *paths, "--output", str(tmp_path / "imported")]


def imported(tmp_path: Path) -> Segmenter:
    return load_checkpoint(tmp_path / "imported")


class TestImport:
    @pytest.mark.parametrize("packing", ["plain", "wrapped", "safetensors"])
    def test_the_checkpoint_computes_what_the_network_did(
        self, network: nn.Module, tmp_path: Path, packing: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        weights = tmp_path / f"weights.{'safetensors' if packing == 'safetensors' else 'pth'}"
        if packing == "safetensors":
            save_file(network.state_dict(), weights)
        else:
            state = network.state_dict()
            torch.save({"model": state, "epoch": 3} if packing == "wrapped" else state, weights)
        assert main(words(tmp_path, CONFIG, weights=weights)) == 0
        model, images_NCHW = imported(tmp_path), random_images(2, 3, 65, 97)
        with torch.inference_mode():
            assert relative_difference(model(images_NCHW), network(images_NCHW)["out"]) < 1e-5
        assert model.metadata is not None
        assert capsys.readouterr().out.endswith(f"sha256 {model.metadata.sha256}\n")

    def test_it_runs_as_a_script_and_says_which_statistics_it_took(
        self, weights: Path, tmp_path: Path
    ) -> None:
        config = CONFIG | {"colors": ["#000000", "#ffffff", [1, 2, 3]]}
        command = [sys.executable, str(SCRIPT), *words(tmp_path, config, weights=weights)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
        assert "mean and std: ImageNet's" in done.stdout
        metadata = imported(tmp_path).metadata
        assert metadata is not None
        assert metadata.colors == ((0, 0, 0), (255, 255, 255), (1, 2, 3))
        assert metadata.bands == ("red", "green", "blue")
        assert metadata.mean == (123.675, 116.28, 103.53)

    def test_a_network_of_smp_with_four_bands(self, tmp_path: Path) -> None:
        smp = pytest.importorskip("segmentation_models_pytorch")
        torch.manual_seed(0)
        network = randomised(smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=2))
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        config = {"arch": "smp/Unet", "backbone": "resnet18", "classes": ["no", "yes"], "in_channels": 4}
        config |= {"mean": [1] * 4, "std": [2] * 4}
        assert main(words(tmp_path, config, weights=tmp_path / "weights.pth", library="smp")) == 0
        model, images_NCHW = imported(tmp_path), random_images(1, 4, 64, 64)
        assert model.metadata is not None
        assert model.metadata.bands == ("band_1", "band_2", "band_3", "band_4")
        with torch.inference_mode():
            assert relative_difference(model(images_NCHW), network(images_NCHW)) < 1e-5

    def test_what_the_config_says_is_kept(
        self, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        beside = {"bands": ["b8", "b4", "b3"], "mean": [1, 2, 3], "std": [4, 5, 6]}
        assert main([*words(tmp_path, CONFIG | beside, weights=weights), "--json"]) == 0
        metadata = imported(tmp_path).metadata
        assert metadata is not None
        assert (metadata.bands, metadata.mean, metadata.std) == (("b8", "b4", "b3"), (1, 2, 3), (4, 5, 6))
        assert metadata.lineage.data == {"imported_from": "torchvision", "weights": "weights.pth"}
        assert json.loads(capsys.readouterr().out) == {
            "status": "complete",
            "model": str(tmp_path / "imported"),
            "sha256": metadata.sha256,
        }
        assert json.loads((tmp_path / "imported" / "model.json").read_text())["config"]["head_conv"] is True

    def test_all_can_be_said_without_a_file(self, weights: Path, tmp_path: Path) -> None:
        said = [f"--set={name}={json.dumps(value)}" for name, value in (CONFIG | {"head_conv": True}).items()]
        places = ["--weights", str(weights), "--output", str(tmp_path / "imported")]
        assert main(["--from", "torchvision", *places, *said]) == 0
        assert imported(tmp_path).config.classes == ("a", "b", "c")

    def test_signatures_of_addresses_are_not_kept(self, network: nn.Module, tmp_path: Path) -> None:
        """Nor do they hide what kind of file it is."""
        save_file(network.state_dict(), tmp_path / "net.safetensors")
        with served(tmp_path) as address:
            command = words(tmp_path, CONFIG, weights=f"{address}/net.safetensors?signature=secret")
            assert main(command) == 0
        metadata = imported(tmp_path).metadata
        assert metadata is not None
        assert metadata.lineage.data == {"imported_from": "torchvision", "weights": "net.safetensors"}


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"strides": 16}, "strides"),
            ({"mean": [1, 2, 3]}, "mean and std must both be given for each of the 3 bands"),
            ({"bands": ["b8", "b4", "b3"]}, "mean and std must both be given for each of the 3 bands"),
            ({"mean": [1], "std": [1]}, "mean must have one entry for each of the 3 input bands, got 1"),
            ({"colors": ["red"] * 3}, "a colour must be '#rrggbb'"),
        ],
    )
    def test_a_config_that_does_not_fit(
        self,
        weights: Path,
        tmp_path: Path,
        change: dict[str, Any],
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(words(tmp_path, CONFIG | change, weights=weights)) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert message in told
        assert not (tmp_path / "imported").exists()

    def test_weights_of_another_network_are_listed(
        self, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(words(tmp_path, CONFIG | {"backbone": "resnet50"}, weights=weights)) == 2
        told = capsys.readouterr().err
        assert told.startswith("refused: ")
        assert "cannot be imported" in told.splitlines()[0]
        assert "head.aspp.pooling.project.0.weight" in told
        assert not (tmp_path / "imported").exists()

    @pytest.mark.parametrize("config", ["just words", [1, 2]])
    def test_a_config_of_another_kind(
        self, weights: Path, tmp_path: Path, config: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(words(tmp_path, config, weights=weights)) == 2
        assert "model.yaml" in capsys.readouterr().err

    def test_a_pickled_model_is_not_opened(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        torch.save(nn.Conv2d(1, 1, 1), tmp_path / "model.pth")
        assert main(words(tmp_path, CONFIG, weights=tmp_path / "model.pth")) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert "holds other pickled objects" in told
        assert "save model.state_dict()" in told

    @pytest.mark.parametrize("name", ["noise.pth", "noise.safetensors"])
    @pytest.mark.parametrize("data", [b"", b"not a model at all", b"PK\x03\x04 neither"])
    def test_a_file_of_another_kind(
        self, tmp_path: Path, name: str, data: bytes, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / name).write_bytes(data)
        assert main(words(tmp_path, CONFIG, weights=tmp_path / name)) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert name in told

    @pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": {"epoch": 3}}, {}])
    def test_a_file_without_a_state_dict(
        self, tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        torch.save(content, tmp_path / "weights.pth")
        assert main(words(tmp_path, CONFIG, weights=tmp_path / "weights.pth")) == 2
        assert "weights must be named tensors" in capsys.readouterr().err

    def test_a_missing_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(words(tmp_path, CONFIG, weights=tmp_path / "nothing.pth")) == 2
        assert "nothing.pth" in capsys.readouterr().err

    def test_words_left_out(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(["--from", "keras"])
        assert stopped.value.code == 2
        assert "invalid choice: 'keras'" in capsys.readouterr().err
