"""A network in 8 bits is the same network, its errors aside, and gives every crop its own bits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from deeplab_core.calibrate import calibrate
from deeplab_core.calibration import Calibration
from deeplab_core.config import ModelConfig
from deeplab_core.int8 import Decoded, Int8ASPP, Int8Block, computes_in_int8, quantise
from deeplab_core.model import build_model
from deeplab_core.multiscale import MultiScale
from deeplab_core.prepare import prepare_for_inference
from deeplab_core.prepared import PreparedModel
from deeplab_core.segmenter import Segmenter
from deeplab_core.simplify import simplify
from tests.deeplab_core.random_models import random_images, randomised

needs_int8 = pytest.mark.skipif(
    not computes_in_int8(torch.device("cpu")), reason="this processor does not multiply bytes (no VNNI)"
)
CPU = torch.device("cpu")
SIDE_PX = 65
# Of a class's logits on random weights, where nothing is redundant; bf16 alone makes 0.02 to 0.1 of it.
LARGEST_ERROR = 0.15

# With them: how many blocks, and how many pyramids, hand on bytes.
NETWORKS: dict[str, tuple[dict[str, Any], int, int]] = {
    "resnet18": ({}, 8, 1),
    "resnet50": ({"backbone": "resnet50"}, 16, 1),
    "mobilenet": ({"backbone": "mobilenet_v3_large"}, 0, 1),
    "xception": ({"backbone": "xception65"}, 0, 1),
    "separable": ({"separable": True}, 8, 0),
    "no fast decoder": ({"decoder_separable": True}, 8, 1),
    "refined": ({"aspp_refine": True}, 8, 1),
    "no pooling": ({"image_pooling": "none"}, 8, 1),
    "fixed pooling": ({"image_pooling": "fixed", "image_pooling_crop_px": 33, "in_channels": 4}, 8, 1),
    "stride 8": ({"output_stride": 8}, 8, 1),
    "v3": ({"arch": "deeplabv3", "head_conv": True, "aux_head": True}, 8, 1),
    "v2": ({"arch": "deeplabv2"}, 8, 0),
    "v1": ({"arch": "deeplabv1"}, 8, 0),
    "unet": ({"arch": "smp/Unet"}, 0, 0),
    "fcn": ({"arch": "torchvision/fcn_resnet50", "backbone": "resnet50"}, 0, 0),
}

LARGE = ("xception", "stride 8", "fcn")
"""They take seconds to prepare."""


class Case(NamedTuple):
    """A network in 8 bits and what it must give."""

    model: Segmenter
    prepared: PreparedModel
    images_NCHW: Tensor
    expected_NKHW: Tensor
    num_blocks: int
    num_pyramids: int


def calibrated(*, side_px: int = SIDE_PX, **options: Any) -> Segmenter:
    if options.get("arch", "").startswith("smp/"):
        pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    config = {"backbone": "resnet18", "classes": ("a", "b", "c")} | options
    model = randomised(build_model(ModelConfig(**config)))
    bands = model.config.in_channels
    model.calibration = calibrate(
        model, [random_images(2, bands, side_px, side_px, seed=seed) for seed in (3, 4)]
    )
    return model


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(network, id=name, marks=[pytest.mark.slow] if name in LARGE else [])
        for name, network in NETWORKS.items()
    ],
)
def case(request: pytest.FixtureRequest) -> Case:
    options, num_blocks, num_pyramids = request.param
    model = calibrated(**options)
    images_NCHW = random_images(2, model.config.in_channels, SIDE_PX, SIDE_PX)
    with torch.inference_mode():
        expected_NKHW = model.lattice(images_NCHW)
    prepared = prepare_for_inference(model, precision="int8", size_px=SIDE_PX)
    return Case(model, prepared, images_NCHW, expected_NKHW, num_blocks, num_pyramids)


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return calibrated()


def error(got_NKHW: Tensor, expected_NKHW: Tensor) -> float:
    """Gives the largest error of a class, as a share of that class's own spread."""
    assert got_NKHW.shape == expected_NKHW.shape
    off_K = (got_NKHW.float() - expected_NKHW.float()).square().mean(dim=(0, 2, 3)).sqrt()
    return (off_K / expected_NKHW.float().std(dim=(0, 2, 3))).max().item()


def count(prepared: PreparedModel, kind: type[nn.Module]) -> int:
    return sum(isinstance(part, kind) for part in prepared._model.modules())


@needs_int8
class TestEveryNetwork:
    def test_it_is_close_to_the_model_and_as_close_without_chains(
        self, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        got_NKHW = case.prepared.lattice(case.images_NCHW)
        assert 0 < error(got_NKHW, case.expected_NKHW) < LARGEST_ERROR
        if case.num_blocks + case.num_pyramids == 0:
            return
        for chain in ("_chain_blocks", "_chain_pyramid"):
            monkeypatch.setattr(f"deeplab_core.int8.{chain}", lambda *_: None)
        single = prepare_for_inference(case.model, precision="int8", size_px=SIDE_PX)
        assert count(single, Int8Block) == count(single, Int8ASPP) == 0
        assert single.preparation.quantised == case.prepared.preparation.quantised
        single_NKHW = single.lattice(case.images_NCHW)
        # Values between two convolutions are rounded once more or less: another draw of the same errors.
        assert 0 < error(got_NKHW, single_NKHW) < LARGEST_ERROR
        assert error(got_NKHW, case.expected_NKHW) < 1.5 * error(single_NKHW, case.expected_NKHW)

    def test_a_crop_has_the_same_bits_alone_and_again_and_in_a_batch(self, case: Case) -> None:
        expected = case.prepared.lattice(case.images_NCHW)
        assert torch.equal(case.prepared.lattice(case.images_NCHW), expected)
        for index in (0, 1):
            assert torch.equal(
                case.prepared.lattice(case.images_NCHW[index : index + 1]), expected[index : index + 1]
            )
        assert case.prepared.lattice(case.images_NCHW[:0]).shape == (0, *expected.shape[1:])

    def test_what_was_calibrated_is_exchanged_and_what_can_be_is_chained(self, case: Case) -> None:
        assert case.model.calibration is not None
        preparation = case.prepared.preparation
        assert preparation.quantised == len(case.model.calibration.inputs)
        assert count(case.prepared, Int8Block) == case.num_blocks
        assert count(case.prepared, Int8ASPP) == case.num_pyramids
        assert count(case.prepared, Decoded) == (case.num_blocks > 0 and case.num_pyramids == 0)
        assert (preparation.precision, preparation.compiled) == ("int8", False)
        assert preparation.reason == "convolutions in 8 bits are faster on CPU"


@needs_int8
class TestChains:
    @pytest.mark.parametrize("options", [{}, {"output_stride": 8, "separable": True}], ids=str)
    def test_later_blocks_do_not_overwrite_the_low_level_features(self, options: dict[str, Any]) -> None:
        # Blocks without a shortcut of their own take over the memory of what they are given.
        prepared = prepare_for_inference(calibrated(**options), precision="int8", size_px=SIDE_PX)
        parts = dict(prepared._model.named_modules())
        made: list[Tensor] = []
        used: list[Tensor] = []
        parts["backbone.layer1"].register_forward_hook(lambda _m, _g, result: made.append(result.clone()))
        parts["head.low"].register_forward_pre_hook(lambda _, given: used.append(given[0].clone()))
        prepared.lattice(random_images(1, 3, SIDE_PX, SIDE_PX))
        assert made[0].dtype is torch.uint8
        assert made[0].unique().numel() > 30
        assert torch.equal(used[0], made[0])

    def test_images_that_are_given_stay_as_they_are(self, case: Case) -> None:
        before = case.images_NCHW.clone()
        case.prepared.lattice(case.images_NCHW)
        assert torch.equal(case.images_NCHW, before)

    @pytest.mark.parametrize("options", [{}, {"backbone": "mobilenet_v3_large"}], ids=str)
    def test_the_rest_may_be_in_fp32(self, options: dict[str, Any]) -> None:
        # As on processors that multiply bytes, but not in bf16.
        model = calibrated(**options)
        assert model.calibration is not None
        images_NCHW = random_images(2, 3, SIDE_PX, SIDE_PX)
        with torch.inference_mode():
            replica = simplify(model, CPU, side_px=SIDE_PX).model
            number = quantise(replica, model.calibration, images_NCHW[:1], torch.float32)
            got_NKHW = replica.to(memory_format=torch.channels_last).lattice(
                images_NCHW.to(memory_format=torch.channels_last)
            )
            expected_NKHW = model.lattice(images_NCHW)
        assert number == len(model.calibration.inputs)
        assert got_NKHW.dtype is torch.float32
        assert 0 < error(got_NKHW, expected_NKHW) < LARGEST_ERROR

    @pytest.mark.parametrize("compile_choice", [False, "auto"])
    def test_with_bands_outermost_it_is_the_same_network(self, model: Segmenter, compile_choice: Any) -> None:
        prepared = prepare_for_inference(
            model, precision="int8", size_px=SIDE_PX, channels_last=False, compile=compile_choice
        )
        assert not prepared.preparation.compiled
        images_NCHW = random_images(2, 3, SIDE_PX, SIDE_PX)
        with torch.inference_mode():
            expected_NKHW = model.lattice(images_NCHW)
        assert error(prepared.lattice(images_NCHW), expected_NKHW) < LARGEST_ERROR

    def test_a_half_calibrated_network_exchanges_what_is_known(self, model: Segmenter) -> None:
        assert model.calibration is not None
        known = {
            path: found for path, found in model.calibration.inputs.items() if "layer2.0.conv2" not in path
        }
        partly = calibrated()
        partly.calibration = replace(model.calibration, inputs=known)
        prepared = prepare_for_inference(partly, precision="int8", size_px=SIDE_PX)
        assert prepared.preparation.quantised == len(known)
        assert (count(prepared, Int8Block), count(prepared, Int8ASPP)) == (0, 1)
        images_NCHW = random_images(2, 3, SIDE_PX, SIDE_PX)
        with torch.inference_mode():
            expected_NKHW = model.lattice(images_NCHW)
        assert error(prepared.lattice(images_NCHW), expected_NKHW) < LARGEST_ERROR


@needs_int8
class TestOtherInputs:
    def test_other_sizes_than_the_prepared_one(self) -> None:
        # Calibrated on the largest: on smaller crops the pyramid sees more padding, and smaller values.
        model = calibrated(side_px=129)
        prepared = prepare_for_inference(model, precision="int8", size_px=SIDE_PX)
        for size_px in ((33, 33), (97, 49), (129, 129)):
            images_NCHW = random_images(2, 3, *size_px)
            with torch.inference_mode():
                expected_NKHW = model.lattice(images_NCHW)
            assert error(prepared.lattice(images_NCHW), expected_NKHW) < LARGEST_ERROR, size_px

    def test_several_scales_and_flips(self) -> None:
        scales = (0.5, 1.0)
        model, images_NCHW = calibrated(), random_images(2, 3, SIDE_PX, SIDE_PX)
        model.calibration = calibrate(model, [random_images(4, 3, SIDE_PX, SIDE_PX, seed=3)], scales=scales)
        prepared = prepare_for_inference(model, precision="int8", size_px=SIDE_PX, scales=scales)
        with torch.inference_mode():
            expected = MultiScale(model, scales=scales, flips=("h",))(images_NCHW)
            got = MultiScale(prepared, scales=scales, flips=("h",))(images_NCHW)
        assert got.dtype is torch.float32
        assert 0 < error(got, expected) < LARGEST_ERROR

    def test_values_beyond_the_calibrated_ones_are_cut_off(self, model: Segmenter) -> None:
        prepared = prepare_for_inference(model, precision="int8", size_px=SIDE_PX)
        logits_NKHW = prepared.lattice(1e4 * random_images(1, 3, SIDE_PX, SIDE_PX))
        assert torch.isfinite(logits_NKHW).all()


class TestRefused:
    def test_devices_that_are_no_processor(self, model: Segmenter) -> None:
        assert not computes_in_int8(torch.device("cuda"))
        assert not computes_in_int8(torch.device("meta"))
        with pytest.raises(ValueError, match=r"must run on a processor that multiplies bytes .*, got meta"):
            prepare_for_inference(model, precision="int8", size_px=33, device="meta")

    @needs_int8
    def test_models_without_calibration(self) -> None:
        uncalibrated = build_model(ModelConfig(backbone="resnet18", classes=("a", "b")))
        with pytest.raises(ValueError, match=r"calibrated model, got one without.*jobs/calibrate_model\.py"):
            prepare_for_inference(uncalibrated, precision="int8", size_px=33)

    @needs_int8
    def test_compilation(self, model: Segmenter) -> None:
        with pytest.raises(ValueError, match="compile must be auto or False with precision int8, got True"):
            prepare_for_inference(model, precision="int8", size_px=33, compile=True)

    @needs_int8
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda _: calibrated(side_px=33, arch="deeplabv1").calibration, r"knows head\.context\.0"),
            (
                lambda _: calibrated(side_px=33, arch="deeplabv2", backbone="resnet34").calibration,
                r"knows backbone\.layer1\.2\.conv1 with 64 inputs",
            ),
            (
                lambda c: replace(
                    c,
                    inputs={
                        path: replace(found, mean_C=found.mean_C[1:]) for path, found in c.inputs.items()
                    },
                ),
                "knows backbone.layer1.0.conv1 with 63 inputs",
            ),
            (lambda c: replace(c, results={}), r"backbone\.layer1\.0"),
        ],
        ids=["arch", "deeper", "channels", "no results"],
    )
    def test_calibrations_of_other_graphs(
        self, model: Segmenter, change: Callable[[Calibration | None], Calibration], message: str
    ) -> None:
        other = calibrated(side_px=33)
        other.calibration = change(model.calibration)
        with pytest.raises(
            ValueError,
            match=rf"calibration must be of this model's graph.*{message}.*calibrate the model anew",
        ):
            prepare_for_inference(other, precision="int8", size_px=33)
