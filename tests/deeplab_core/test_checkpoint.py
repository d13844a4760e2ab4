"""A checkpoint brings back the model and everything needed to use it, or says what is wrong with it."""

import copy
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from deeplab_core import load_checkpoint, save_checkpoint
from deeplab_core.checkpoint import load_metadata
from deeplab_core.config import ModelConfig
from deeplab_core.metadata import METADATA_NAME, WEIGHTS_NAME, CheckpointError, CheckpointMetadata
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter
from tests.deeplab_core.random_models import random_images, randomised

STATISTICS: dict[str, Any] = {"mean": [0.1, 2000.0], "std": [1.0, 350.5], "bands": ["vv", "vh"]}


def model_of(*, seed: int = 0, **options: Any) -> Segmenter:
    torch.manual_seed(seed)
    config = {"backbone": "resnet18", "arch": "deeplabv2", "classes": ("water", "forest", "built")}
    return randomised(build_model(ModelConfig(**(config | {"in_channels": 2} | options))), seed=seed)


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return model_of()


@pytest.fixture
def saved(model: Segmenter, tmp_path: Path) -> Path:
    save_checkpoint(model, tmp_path / "champion", **STATISTICS)
    return tmp_path / "champion"


def rewrite(saved: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edits model.json as a careless person would."""
    content = json.loads((saved / METADATA_NAME).read_bytes())
    change(content)
    (saved / METADATA_NAME).write_text(json.dumps(content))


class TestRoundTrip:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"arch": "deeplabv3plus", "separable": True, "output_stride": 8, "image_pooling": "none"},
            {"arch": "deeplabv3", "aux_head": True, "head_conv": True, "align_corners": False},
            {"arch": "torchvision/deeplabv3_mobilenet_v3_large", "backbone": "mobilenet_v3_large"},
            {"backbone": "timm/resnet18d", "bands": ("vv", "vh")},
        ],
        ids=str,
    )
    def test_the_same_graph_gives_the_same_bits(self, options: dict[str, Any], tmp_path: Path) -> None:
        model, images_NCHW = model_of(**options), random_images(2, 2, 65, 65)
        metadata = save_checkpoint(model, tmp_path, **STATISTICS)
        loaded = load_checkpoint(tmp_path)
        assert not loaded.training
        assert loaded.config == model.config
        assert loaded.metadata == metadata
        with torch.inference_mode():
            assert torch.equal(loaded.lattice(images_NCHW), model.lattice(images_NCHW))

    def test_everything_said_is_found_again(self, model: Segmenter, tmp_path: Path) -> None:
        save_checkpoint(
            model,
            tmp_path,
            mean=np.array([0.5, 1.5], dtype=np.float32),
            std=torch.tensor([2.0, 3.0]),  # type: ignore[arg-type]
            bands=("vv", "vh"),
            colors=["#0000ff", (0, 128, 0), "#C0FFEE"],
            lineage={"parent": "sha256:abc", "data": {"tiles": 412}, "metrics": {"miou": 0.5}},
            metrics={"miou": 0.71, "pixels": 10**12},
        )
        metadata = load_metadata(tmp_path)
        assert metadata.classes == ("water", "forest", "built")
        assert metadata.colors == ((0, 0, 255), (0, 128, 0), (192, 255, 238))
        assert (metadata.bands, metadata.mean, metadata.std) == (("vv", "vh"), (0.5, 1.5), (2.0, 3.0))
        assert metadata.lineage.parent == "sha256:abc"
        assert metadata.lineage.data == {"tiles": 412}
        assert metadata.lineage.metrics == {"miou": 0.71, "pixels": 10**12}
        assert metadata.sha256 == hashlib.sha256((tmp_path / WEIGHTS_NAME).read_bytes()).hexdigest()

    def test_the_same_model_is_the_same_bytes(self, model: Segmenter, saved: Path, tmp_path: Path) -> None:
        save_checkpoint(
            copy.deepcopy(model).to(memory_format=torch.channels_last), tmp_path / "again", **STATISTICS
        )
        for name in (WEIGHTS_NAME, METADATA_NAME):
            assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()

    def test_loading_downloads_nothing_and_leaves_the_seed_alone(
        self, model: Segmenter, tmp_path: Path
    ) -> None:
        config = model.config
        try:
            model.config = config.model_copy(update={"pretrained": True})
            save_checkpoint(model, tmp_path, **STATISTICS)
        finally:
            model.config = config
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        loaded = load_checkpoint(tmp_path)
        assert torch.equal(torch.rand(3), expected)
        assert not loaded.config.pretrained
        rewrite(tmp_path, lambda content: content["config"].update(pretrained=True))
        assert not load_checkpoint(tmp_path).config.pretrained

    def test_saving_again_replaces_the_model_and_nothing_else(self, saved: Path) -> None:
        (saved / "notes.txt").write_text("ours")
        other = model_of(seed=1)
        save_checkpoint(other, saved, **STATISTICS)
        weights = load_checkpoint(saved).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in other.state_dict().items())
        assert sorted(path.name for path in saved.iterdir()) == [METADATA_NAME, WEIGHTS_NAME, "notes.txt"]

    def test_a_bucket_serves_as_well_and_gets_the_metadata_last(self, model: Segmenter) -> None:
        bucket: dict[str, bytes] = {}
        save_checkpoint(model, "s3://models/a", **STATISTICS, write_bytes=bucket.__setitem__)
        assert list(bucket) == [WEIGHTS_NAME, METADATA_NAME]
        loaded = load_checkpoint("s3://models/a", read_bytes=bucket.__getitem__)
        images_NCHW = random_images(1, 2, 33, 33)
        with torch.inference_mode():
            assert torch.equal(loaded.lattice(images_NCHW), model.lattice(images_NCHW))


class TestDamage:
    @pytest.mark.parametrize("name", [WEIGHTS_NAME, METADATA_NAME])
    def test_a_missing_file_is_named(self, saved: Path, name: str) -> None:
        (saved / name).unlink()
        with pytest.raises(CheckpointError, match=rf"champion must hold .* got no {name}; check the path"):
            load_checkpoint(saved)

    def test_a_missing_object_is_named(self) -> None:
        def nothing(name: str) -> bytes:
            raise FileNotFoundError(name)

        with pytest.raises(
            CheckpointError, match=r"checkpoint s3://models/b must hold .* got no model\.json"
        ):
            load_checkpoint("s3://models/b", read_bytes=nothing)

    def test_a_path_to_a_file_is_no_checkpoint(self, saved: Path) -> None:
        with pytest.raises(CheckpointError, match=r"got no model\.json; check the path"):
            load_checkpoint(saved / WEIGHTS_NAME)

    def test_weights_of_another_model_are_found_out(self, saved: Path, tmp_path: Path) -> None:
        other = save_checkpoint(model_of(seed=1), tmp_path / "other", **STATISTICS)
        (tmp_path / "other" / WEIGHTS_NAME).replace(saved / WEIGHTS_NAME)
        with pytest.raises(CheckpointError, match=rf"must have the sha256 .* got {other.sha256}; the files"):
            load_checkpoint(saved)

    @pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
    def test_weights_cut_short_are_found_out(self, saved: Path, keep: float) -> None:
        data = (saved / WEIGHTS_NAME).read_bytes()
        (saved / WEIGHTS_NAME).write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(CheckpointError, match="must have the sha256"):
            load_checkpoint(saved)

    def test_weights_that_are_no_safetensors_are_refused(self, saved: Path) -> None:
        (saved / WEIGHTS_NAME).write_bytes(b"pickle")
        digest = hashlib.sha256(b"pickle").hexdigest()
        rewrite(saved, lambda content: content.update(sha256=digest))
        with pytest.raises(CheckpointError, match=r"model\.safetensors of checkpoint .* must be safetensors"):
            load_checkpoint(saved)

    def test_weights_of_another_graph_are_refused_by_name(self, saved: Path) -> None:
        weights = load_file(saved / WEIGHTS_NAME)
        weights["extra"] = weights.pop("backbone.conv1.weight")
        weights["backbone.bn1.bias"] = torch.zeros(3)
        save_file(weights, saved / WEIGHTS_NAME)
        digest = hashlib.sha256((saved / WEIGHTS_NAME).read_bytes()).hexdigest()
        rewrite(saved, lambda content: content.update(sha256=digest))
        with pytest.raises(
            CheckpointError,
            match=r"got 1 missing: backbone\.conv1\.weight; 1 unknown: extra; "
            r"1 of another shape: backbone\.bn1\.bias \(3,\) instead of \(64,\)",
        ):
            load_checkpoint(saved)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c.update(format="onnx"), 'must say "format": "terrazzo-model", got \'onnx\''),
            (lambda c: c.pop("format"), 'must say "format": "terrazzo-model", got None'),
            (
                lambda c: c.update(format_version=2, new=1),
                "at most 1, got 2: it was written by a newer version",
            ),
            (lambda c: c.update(format_version="1"), "must be a positive integer, got '1'"),
            (lambda c: c.update(bandz=1), "does not fit: bandz: Extra inputs are not permitted"),
            (lambda c: c.pop("mean"), "does not fit: mean: Field required"),
            (lambda c: c["config"].update(arch="unet"), "config: arch must be one of"),
            (lambda c: c.update(sha256="abc"), "sha256: "),
            (lambda c: c.update(colors=["#12345g"] * 3), "a colour must be '#rrggbb' or three numbers"),
            (lambda c: c.update(colors=[[0, 0, 256]] * 3), r"colors\.0\.2: "),
        ],
    )
    def test_metadata_that_is_not_what_it_must_be_is_refused(
        self, saved: Path, change: Callable[[dict[str, Any]], object], message: str
    ) -> None:
        rewrite(saved, change)
        with pytest.raises(CheckpointError, match=message):
            load_metadata(saved)

    @pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[1]"])
    def test_metadata_that_is_no_json_object_is_refused(self, saved: Path, data: bytes) -> None:
        (saved / METADATA_NAME).write_bytes(data)
        with pytest.raises(CheckpointError, match=r"model\.json of checkpoint .* must "):
            load_metadata(saved)


class TestRefusedToSave:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"bands": ["vv"]}, "bands must have one entry for each of the 2 input bands, got 1"),
            ({"bands": ["vv", "vv"]}, "bands must be named differently"),
            ({"mean": [0.0]}, "mean must have one entry for each of the 2 input bands, got 1"),
            ({"std": [1.0, 0.0]}, r"std must be finite and positive for every band, got \[1\.0, 0\.0\]"),
            ({"mean": [0.0, math.nan]}, r"mean must be finite for every band, got \[0\.0, nan\]"),
            ({"colors": ["#000000"]}, "colors must have one entry for each of the 3 classes, got 1"),
            ({"lineage": {"father": "x"}}, r"lineage\.father: Extra inputs are not permitted"),
        ],
    )
    def test_what_does_not_fit_writes_nothing(
        self, model: Segmenter, tmp_path: Path, wrong: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(CheckpointError, match=message):
            save_checkpoint(model, tmp_path / "new", **(STATISTICS | wrong))
        assert not (tmp_path / "new").exists()

    def test_bands_must_be_those_of_the_config(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"bands must be those of the model's config, \['b', 'a'\]"):
            save_checkpoint(model_of(bands=("b", "a")), tmp_path, **(STATISTICS | {"bands": ["a", "b"]}))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_model_gone_wrong_in_training_is_not_saved_over_a_good_one(
        self, saved: Path, value: float
    ) -> None:
        wrong = model_of()
        wrong.state_dict()["backbone.bn1.running_var"][3] = value
        with pytest.raises(
            CheckpointError, match=r"NaN or infinity in backbone\.bn1\.running_var; not saved"
        ):
            save_checkpoint(wrong, saved, **STATISTICS)
        assert load_checkpoint(saved).metadata is not None


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
finite = st.floats(allow_nan=False, allow_infinity=False)


class TestMetadata:
    @given(data=st.data(), num_bands=st.integers(1, 6), num_classes=st.integers(1, 5))
    def test_any_metadata_survives_its_json(
        self, data: st.DataObject, num_bands: int, num_classes: int
    ) -> None:
        def several(strategy: st.SearchStrategy[Any], size: int, *, unique: bool = False) -> tuple[Any, ...]:
            return tuple(data.draw(st.lists(strategy, min_size=size, max_size=size, unique=unique)))

        metadata = CheckpointMetadata(
            config=ModelConfig(
                classes=several(names.filter(str.strip), num_classes, unique=True), in_channels=num_bands
            ),
            colors=several(st.tuples(*[st.integers(0, 255)] * 3), num_classes),
            bands=several(names, num_bands, unique=True),
            mean=several(finite, num_bands),
            std=several(st.floats(min_value=1e-300, allow_infinity=False), num_bands),
            sha256=hashlib.sha256(data.draw(st.binary(max_size=4))).hexdigest(),
            calibrated=data.draw(st.booleans()),
        )
        assert CheckpointMetadata.from_json(metadata.to_json(), where="here") == metadata

    def test_planning_reads_it_without_torch(self, saved: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from deeplab_core.metadata import CheckpointMetadata\n"
            f"data = Path({str(saved / METADATA_NAME)!r}).read_bytes()\n"
            "print(CheckpointMetadata.from_json(data, where='here').classes[2], 'torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        assert done.stdout.split() == ["built", "False"]
