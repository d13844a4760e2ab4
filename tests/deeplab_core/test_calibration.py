"""A calibration says what a model's values are, whatever the crops' order, and travels with the weights."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from deeplab_core.calibrate import calibrate
from deeplab_core.calibration import Calibration, Statistics, split_calibration
from deeplab_core.checkpoint import load_checkpoint, load_metadata, save_checkpoint
from deeplab_core.config import ModelConfig
from deeplab_core.metadata import METADATA_NAME, WEIGHTS_NAME, CheckpointError
from deeplab_core.model import build_model
from deeplab_core.resample import resize
from deeplab_core.segmenter import Segmenter
from tests.deeplab_core.random_models import random_images, randomised
from tests.deeplab_core.tiny_segmenter import TinySegmenter

STATISTICS: dict[str, Any] = {"mean": [0.0] * 3, "std": [1.0] * 3, "bands": ["r", "g", "b"]}


def model_of(**options: Any) -> Segmenter:
    torch.manual_seed(0)
    config = {"backbone": "resnet18", "classes": ("a", "b", "c")} | options
    return randomised(build_model(ModelConfig(**config)))


def same(got: Statistics, expected: Statistics, tolerance: float = 0.0) -> bool:
    scale = tolerance * (expected.high - expected.low)
    return (
        abs(got.low - expected.low) <= scale
        and abs(got.high - expected.high) <= scale
        and got.mean_C.shape == expected.mean_C.shape
        and bool(((got.mean_C - expected.mean_C).abs() <= scale).all())
    )


def is_same(got: Calibration, expected: Calibration, tolerance: float = 0.0) -> bool:
    return all(
        ours.keys() == theirs.keys() and all(same(ours[path], theirs[path], tolerance) for path in theirs)
        for ours, theirs in ((got.inputs, expected.inputs), (got.results, expected.results))
    )


class Seen:
    """Keeps every tensor that it is shown, by name."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[Tensor]] = {}

    def keep(self, name: str, tensor: Tensor) -> None:
        self.tensors.setdefault(name, []).append(tensor.clone())

    def before(self, module: nn.Module, name: str) -> None:
        module.register_forward_pre_hook(lambda _, given: self.keep(name, given[0]))

    def after(self, module: nn.Module, name: str) -> None:
        module.register_forward_hook(lambda _m, _g, result: self.keep(name, result))

    def statistics(self) -> dict[str, Statistics]:
        found = {}
        for name, tensors in self.tensors.items():
            values_CX = torch.cat([tensor.transpose(0, 1).flatten(1) for tensor in tensors], dim=1).double()
            low, high = min(0.0, values_CX.min().item()), max(0.0, values_CX.max().item())
            found[name] = Statistics(low, high, values_CX.mean(dim=1).float())
        return found


class TestWhatIsMeasured:
    def test_bounds_and_means_are_those_of_the_model_itself(self) -> None:
        # Folding changes no tensor between a norm and the next convolution, so the model may stay whole here.
        crops = [random_images(2, 3, 65, 65, seed=seed) for seed in range(3)]
        model = model_of(aux_head=True)
        found = calibrate(model, crops)
        inputs, results = Seen(), Seen()
        for path, part in model.named_modules():
            if isinstance(part, nn.Conv2d):
                inputs.before(part, path)
            elif isinstance(part, BasicBlock):
                results.after(part, path)
                if part.downsample is not None:
                    results.after(part.downsample, f"{path}.downsample")
        # The decoder's first convolution is two in a folded model: before upsampling, and beside it.
        inputs.after(model.get_submodule("head.aspp"), "head.taps")
        inputs.after(model.get_submodule("head.low"), "head.join.conv")
        with torch.inference_mode():
            for crop in crops:
                model.lattice(crop)
        expected = inputs.statistics()
        expected["head.rest.1.0"] = expected.pop("head.decoder.1.0")
        for gone in ("backbone.conv1", "head.logits", "head.decoder.0.0", "head.aspp.pooling.project.0"):
            del expected[gone]
        assert found.inputs.keys() == expected.keys()
        assert len(found.results) == 8 + 3
        assert is_same(found, Calibration(expected, results.statistics()), tolerance=1e-5)
        assert min(each.low for each in found.results.values()) < 0 < found.inputs["head.taps"].high

    def test_order_and_batches_of_the_crops_make_no_difference(self) -> None:
        model = model_of(arch="deeplabv2")
        crops = [random_images(1, 3, 49, 49, seed=seed) for seed in range(4)]
        expected = calibrate(model, crops)
        assert is_same(calibrate(model, crops[::-1]), expected, tolerance=1e-6)
        assert is_same(calibrate(model, [torch.cat(crops[:1]), torch.cat(crops[1:])]), expected, 1e-5)
        assert not is_same(calibrate(model, crops[1:]), expected, 1e-5)

    def test_scales_are_measured_together(self) -> None:
        model, crop_NCHW = model_of(), random_images(1, 3, 65, 65)
        found = calibrate(model, [crop_NCHW], scales=(0.5, 1.0))
        each = [calibrate(model, [resize(crop_NCHW, side, side, align_corners=True)]) for side in (33, 65)]
        for path, statistics in found.inputs.items():
            assert statistics.low == pytest.approx(min(one.inputs[path].low for one in each), rel=1e-4)
            assert statistics.high == pytest.approx(max(one.inputs[path].high for one in each), rel=1e-4)

    def test_delicate_and_small_convolutions_are_not_named(self) -> None:
        model = model_of(backbone="mobilenet_v3_large", separable=True)
        found = calibrate(model, [random_images(1, 3, 65, 65)])
        convs = {path: part for path, part in model.named_modules() if isinstance(part, nn.Conv2d)}
        depthwise = {path for path, conv in convs.items() if conv.groups > 1}
        squeezed = {path for path in convs if path.endswith((".fc1", ".fc2"))}
        ends = {"backbone.features.0.0", "head.logits"}
        # A separable decoder stays as it is, with its upsampled input.
        assert found.inputs.keys() == convs.keys() - depthwise - squeezed - ends - {
            "head.aspp.pooling.project.0"
        }
        assert len(depthwise) > 15
        assert len(squeezed) == 16

    def test_logits_that_are_summed_are_all_delicate(self) -> None:
        found = calibrate(model_of(arch="deeplabv2"), [random_images(1, 3, 33, 33)])
        assert not [path for path in found.inputs if path.startswith("head.")]

    def test_a_network_of_three_convolutions_has_one_to_measure(self) -> None:
        model, crops = TinySegmenter(), [random_images(3, 3, 33, 49)]
        found = calibrate(model, crops)
        with torch.inference_mode():
            fine_NCHW = model.fine(crops[0])
        [(path, statistics)] = found.inputs.items()
        assert path == "coarse"
        assert same(statistics, Statistics(0.0, fine_NCHW.max().item(), fine_NCHW.mean(dim=(0, 2, 3))), 1e-5)
        assert found.results == {}


class TestTheModelItself:
    def test_it_stays_as_it_was(self) -> None:
        model = model_of().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        calibrate(model, [random_images(1, 3, 33, 33)])
        assert model.training
        assert model.calibration is None
        assert all(parameter.requires_grad for parameter in model.parameters())
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


class TestRefused:
    def test_no_crops(self) -> None:
        with pytest.raises(ValueError, match="crops must be one or more, got none"):
            calibrate(TinySegmenter(), iter([]))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_not_finite(self, value: float) -> None:
        crops = [random_images(1, 3, 33, 33, seed=seed) for seed in range(3)]
        crops[1][0, 1, 7, 7] = value
        with pytest.raises(ValueError, match=r"must give finite values on the crops, got others at fine\.0"):
            calibrate(TinySegmenter(), crops)


@pytest.fixture(scope="module")
def model() -> Segmenter:
    model = model_of(arch="deeplabv2")
    model.calibration = calibrate(model, [random_images(1, 3, 33, 33)])
    return model


@pytest.fixture
def saved(model: Segmenter, tmp_path: Path) -> Path:
    save_checkpoint(model, tmp_path / "m", **STATISTICS)
    return tmp_path / "m"


def damage(saved: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Edits the weights' file and the digest with it, as a wrong program would."""
    tensors = load_file(saved / WEIGHTS_NAME)
    change(tensors)
    save_file(tensors, saved / WEIGHTS_NAME, metadata={"format": "pt"})
    content = json.loads((saved / METADATA_NAME).read_bytes())
    content["sha256"] = hashlib.sha256((saved / WEIGHTS_NAME).read_bytes()).hexdigest()
    (saved / METADATA_NAME).write_text(json.dumps(content))


CONV = "calibration.inputs.backbone.layer1.0.conv1"
BLOCK = "calibration.results.backbone.layer2.0.downsample"


class TestCheckpoint:
    def test_it_is_found_again_beside_the_same_weights(self, model: Segmenter, saved: Path) -> None:
        loaded = load_checkpoint(saved)
        assert model.calibration is not None
        assert loaded.calibration is not None
        assert is_same(loaded.calibration, model.calibration)
        assert len(loaded.calibration.inputs) > 15
        expected = model.state_dict()
        assert loaded.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
        assert json.loads((saved / METADATA_NAME).read_bytes())["calibrated"] is True
        assert load_metadata(saved).calibrated

    def test_saving_what_was_loaded_gives_the_same_bytes(self, saved: Path, tmp_path: Path) -> None:
        save_checkpoint(load_checkpoint(saved), tmp_path / "again", **STATISTICS)
        for name in (WEIGHTS_NAME, METADATA_NAME):
            assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()

    def test_without_one_nothing_is_said_of_it(self, tmp_path: Path) -> None:
        model = model_of(arch="deeplabv2")
        metadata = save_checkpoint(model, tmp_path, **STATISTICS)
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        assert (tmp_path / WEIGHTS_NAME).read_bytes() == save(weights, metadata={"format": "pt"})
        assert list(json.loads((tmp_path / METADATA_NAME).read_bytes())) == [
            "format",
            "format_version",
            "config",
            "colors",
            "bands",
            "mean",
            "std",
            "sha256",
            "lineage",
        ]
        assert not metadata.calibrated
        assert load_metadata(tmp_path) == metadata
        assert load_checkpoint(tmp_path).calibration is None

    def test_one_that_knows_nothing_is_none(self, tmp_path: Path) -> None:
        model = model_of(arch="deeplabv2")
        model.calibration = Calibration({}, {})
        assert not save_checkpoint(model, tmp_path, **STATISTICS).calibrated
        assert load_checkpoint(tmp_path).calibration is None

    @pytest.mark.parametrize("says", [True, False])
    def test_model_json_and_weights_must_say_the_same(
        self, model: Segmenter, says: bool, tmp_path: Path
    ) -> None:
        other = model_of(arch="deeplabv2")
        other.calibration = None if says else model.calibration
        save_checkpoint(other, tmp_path, **STATISTICS)
        told = json.loads((tmp_path / METADATA_NAME).read_bytes()) | {"calibrated": says}
        (tmp_path / METADATA_NAME).write_text(json.dumps(told))
        with pytest.raises(CheckpointError, match=f"holds a calibration, {not says}, got calibrated={says}"):
            load_checkpoint(tmp_path)

    def test_it_is_part_of_the_models_identity(self, model: Segmenter, saved: Path, tmp_path: Path) -> None:
        others = [None, calibrate(model, [random_images(1, 3, 33, 33, seed=2)])]
        digests = {load_metadata(saved).sha256}
        for number, other in enumerate(others):
            twin = model_of(arch="deeplabv2")
            twin.calibration = other
            digests.add(save_checkpoint(twin, tmp_path / str(number), **STATISTICS).sha256)
        assert len(digests) == 3
        tensors = load_file(saved / WEIGHTS_NAME)
        tensors[f"{CONV}.range"][1] += 1.0
        save_file(tensors, saved / WEIGHTS_NAME, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="must have the sha256"):
            load_checkpoint(saved)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop(f"{CONV}.mean"), r"means of inputs\.backbone\.layer1\.0\.conv1; calibrate"),
            (lambda t: t.pop(f"{CONV}.range"), r"means of inputs\.backbone\.layer1\.0\.conv1; calibrate"),
            (
                lambda t: t.pop(f"{BLOCK}.mean"),
                r"means of results\.backbone\.layer2\.0\.downsample; calibrate",
            ),
            (
                lambda t: t.update({f"{BLOCK}.range": torch.zeros(3)}),
                r"two bounds and the means of results\.backbone\.layer2\.0\.downsample",
            ),
            (
                lambda t: t[f"{CONV}.mean"].fill_(torch.nan),
                r"calibration of inputs\.backbone\.layer1\.0\.conv1 must be finite",
            ),
            (
                lambda t: t[f"{CONV}.range"].fill_(torch.nan),
                r"inputs\.backbone\.layer1\.0\.conv1 must be finite and hold 0, got nan to nan",
            ),
            (
                lambda t: t[f"{CONV}.range"].copy_(torch.tensor([0.0, torch.inf])),
                r"inputs\.backbone\.layer1\.0\.conv1 must be finite and hold 0, got 0.0 to inf",
            ),
            (
                lambda t: t[f"{CONV}.range"].copy_(torch.tensor([0.5, 2.0])),
                r"inputs\.backbone\.layer1\.0\.conv1 must be finite and hold 0, got 0\.5 to 2\.0",
            ),
            (
                lambda t: t[f"{CONV}.range"].copy_(torch.tensor([1.0, -1.0])),
                r"inputs\.backbone\.layer1\.0\.conv1 must be finite and hold 0, got 1\.0 to -1\.0",
            ),
            (
                lambda t: t.update({"calibration.outputs.head.range": torch.zeros(2)}),
                r"must be of inputs or results, got outputs\.head\.range",
            ),
        ],
    )
    def test_a_damaged_one_is_refused_by_name(
        self, saved: Path, change: Callable[[dict[str, Tensor]], object], message: str
    ) -> None:
        damage(saved, change)
        with pytest.raises(CheckpointError, match=rf"model\.safetensors of checkpoint .*{message}"):
            load_checkpoint(saved)


words = st.sampled_from(["conv", "0", "range", "mean", "inputs", "results", "calibration"])
paths = st.lists(words, min_size=1, max_size=4).map(".".join)
finite = st.floats(0.0, 1e6, width=32)


@st.composite
def groups(draw: st.DrawFn) -> dict[str, Statistics]:
    means = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=3).map(torch.tensor)
    return draw(st.dictionaries(paths, st.builds(Statistics, finite.map(lambda x: -x), finite, means)))


@given(inputs=groups(), results=groups())
def test_any_calibration_survives_its_tensors(
    inputs: dict[str, Statistics], results: dict[str, Statistics]
) -> None:
    weights = {"backbone.conv1.weight": torch.ones(3), "calibrations": torch.zeros(1)}
    calibration = Calibration(inputs, results)
    rest, found = split_calibration(weights | calibration.to_tensors())
    assert rest.keys() == weights.keys()
    if not inputs and not results:
        assert found is None
    else:
        assert found is not None
        assert is_same(found, calibration)
