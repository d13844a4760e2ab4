"""Scales and flips are fused as published: against numpy by hand, and by what symmetry demands."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from deeplab_core.config import ModelConfig
from deeplab_core.model import build_model
from deeplab_core.multiscale import MultiScale
from deeplab_core.scales import legal_scales, scaled_size_px
from deeplab_core.symmetry import symmetries
from tests.deeplab_core.random_models import random_images, randomised
from tests.deeplab_core.tiny_segmenter import TinySegmenter

Array = NDArray[np.float64]
View = Callable[[Array], Array]

# Each view with what undoes it, on arrays whose last two axes are rows and columns.
SAME: tuple[View, View] = (lambda a: a, lambda a: a)
LEFT_RIGHT: tuple[View, View] = (lambda a: a[..., ::-1], lambda a: a[..., ::-1])
UPSIDE_DOWN: tuple[View, View] = (lambda a: a[..., ::-1, :], lambda a: a[..., ::-1, :])
HALF_TURN: tuple[View, View] = (lambda a: a[..., ::-1, ::-1], lambda a: a[..., ::-1, ::-1])
# Quarter turns and diagonal mirrors by numpy's own functions, independent of how the code composes them.
TURNED: list[tuple[View, View]] = [
    (lambda a: np.rot90(a, 1, axes=(-2, -1)), lambda a: np.rot90(a, -1, axes=(-2, -1))),
    (lambda a: np.rot90(a, -1, axes=(-2, -1)), lambda a: np.rot90(a, 1, axes=(-2, -1))),
    (lambda a: np.swapaxes(a, -2, -1), lambda a: np.swapaxes(a, -2, -1)),
    (lambda a: np.rot90(np.swapaxes(a, -2, -1), 2, axes=(-2, -1)),) * 2,
]
VIEWS: dict[Any, list[tuple[View, View]]] = {
    (): [SAME],
    ("h",): [SAME, LEFT_RIGHT],
    ("v",): [SAME, UPSIDE_DOWN],
    ("h", "v"): [SAME, LEFT_RIGHT, UPSIDE_DOWN, HALF_TURN],
    "d4": [SAME, LEFT_RIGHT, UPSIDE_DOWN, HALF_TURN, *TURNED],
}


def resized(values: Array, rows: int, columns: int) -> Array:
    """Bilinear with corners on corners: one axis after the other."""
    for axis, size in ((-2, rows), (-1, columns)):
        old = np.linspace(0.0, 1.0, values.shape[axis])
        new = np.linspace(0.0, 1.0, size)
        values = np.apply_along_axis(lambda line, old=old, new=new: np.interp(new, old, line), axis, values)
    return values


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def by_hand(model: TinySegmenter, images: Tensor, scales: list[float], flips: Any, *, fuse: str) -> Array:
    """The definition, written without looking at the code: scale, look, run, look back, rescale, mean."""
    rows, columns = images.shape[-2:]
    views = []
    for scale in scales:
        scaled = resized(images.double().numpy(), int((rows - 1) * scale + 1), int((columns - 1) * scale + 1))
        for look, look_back in VIEWS[flips]:
            seen = torch.from_numpy(np.ascontiguousarray(look(scaled))).float()
            logits = look_back(model.lattice(seen).double().numpy())
            logits = resized(logits, (rows - 1) // 4 + 1, (columns - 1) // 4 + 1)
            views.append(logits if fuse == "logits" else softmax(logits))
    mean = np.mean(views, axis=0)
    return softmax(mean) if fuse == "logits" else mean


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


class TestAgainstHand:
    @pytest.mark.parametrize("fuse", ["probabilities", "logits"])
    @pytest.mark.parametrize("flips", list(VIEWS), ids=str)
    @pytest.mark.parametrize("size_px", [(65, 65), (65, 129)])
    def test_fused_probabilities_equal_the_definition(
        self, size_px: tuple[int, int], flips: Any, fuse: Any
    ) -> None:
        model, images_NCHW = TinySegmenter(), random_images(2, 3, *size_px)
        scales = [0.75, 1.0, 1.25]
        got = MultiScale(model, scales=scales, flips=flips, fuse=fuse)(images_NCHW)
        expected = by_hand(model, images_NCHW, scales, flips, fuse=fuse)
        assert got.shape == expected.shape
        assert np.abs(got.numpy() - expected).max() < 1e-5
        assert expected.max() > 0.9, "views that never decide would make every mean alike"

    def test_fusing_logits_is_another_result_than_fusing_probabilities(self) -> None:
        model, images_NCHW = TinySegmenter(), random_images(1, 3, 65, 65)
        one, other = (MultiScale(model, fuse=fuse)(images_NCHW) for fuse in ("logits", "probabilities"))
        assert (one - other).abs().max() > 0.01

    def test_the_published_default_is_three_scales_and_a_mirror(self) -> None:
        model, images_NCHW = TinySegmenter(), random_images(1, 3, 65, 65)
        expected = by_hand(model, images_NCHW, [0.75, 1.0, 1.25], ("h",), fuse="probabilities")
        assert np.abs(MultiScale(model)(images_NCHW).numpy() - expected).max() < 1e-5

    def test_a_deeplab_model_is_seen_at_every_scale(self) -> None:
        config = ModelConfig(backbone="resnet18", classes=("a", "b", "c"))
        torch.manual_seed(0)
        model = randomised(build_model(config))
        images_NCHW = random_images(1, 3, 65, 65)
        expected = by_hand(model, images_NCHW, [0.5, 1.5], ("h", "v"), fuse="probabilities")  # type: ignore[arg-type]
        got = MultiScale(model, scales=(0.5, 1.5), flips=("v", "h"))(images_NCHW)
        assert np.abs(got.numpy() - expected).max() < 1e-5


class TestSymmetry:
    @pytest.mark.parametrize("flips", ["d4", ("d4",)])
    def test_eight_views_turn_with_a_square_image(self, flips: Any) -> None:
        fused = MultiScale(TinySegmenter(), scales=(1.0, 1.25), flips=flips)
        images_NCHW = random_images(1, 3, 65, 65)
        turned = fused(torch.rot90(images_NCHW, 1, (-2, -1)))
        assert torch.allclose(turned, torch.rot90(fused(images_NCHW), 1, (-2, -1)), atol=1e-6)

    @pytest.mark.parametrize(
        ("flips", "num_views"), [((), 1), ("h", 2), ("v", 2), (("v", "h"), 4), ("d4", 8)]
    )
    def test_views_are_distinct_and_undone_exactly(self, flips: Any, num_views: int) -> None:
        image = torch.arange(15.0).reshape(1, 1, 3, 5)
        views = [view.apply(image) for view in symmetries(flips)]
        assert len({tuple(view.flatten().tolist()) + tuple(view.shape) for view in views}) == num_views
        assert all(torch.equal(s.undo(view), image) for s, view in zip(symmetries(flips), views, strict=True))

    @pytest.mark.parametrize("flips", [("x",), ("h", "h"), ("d4", "h"), ("hv",)])
    def test_unknown_or_repeated_flips_are_refused(self, flips: Any) -> None:
        with pytest.raises(ValueError, match=r'flips must be "h", "v", both, or "d4" alone, got '):
            MultiScale(TinySegmenter(), flips=flips)


class TestCost:
    def test_a_single_view_is_one_call_and_its_softmax(self) -> None:
        model, images_NCHW = TinySegmenter(), random_images(2, 3, 65, 65)
        expected = model.lattice(images_NCHW).softmax(dim=1)
        model.seen.clear()
        got = MultiScale(model, scales=(1.0,), flips=())(images_NCHW)
        assert torch.allclose(got, expected, rtol=0.0, atol=1e-6)
        assert model.seen == [((2, 3, 65, 65), torch.float32)]

    def test_announced_shapes_are_those_the_model_sees(self) -> None:
        model = TinySegmenter(in_channels=5)
        fused = MultiScale(model, scales=(0.5, 1.0, 1.75), flips="d4")
        fused(random_images(3, 5, 129, 129))
        assert list(dict.fromkeys(shape for shape, _ in model.seen)) == list(fused.shapes(3, 5, 129))
        assert len(model.seen) == 24

    def test_logits_that_the_model_keeps_are_not_overwritten(self) -> None:
        class Remembering(TinySegmenter):
            def lattice(self, images_NCHW: Tensor) -> Tensor:
                self.kept = super().lattice(images_NCHW)
                self.copy = self.kept.clone() if not hasattr(self, "copy") else self.copy
                self.first = self.kept if not hasattr(self, "first") else self.first
                return self.kept

        model = Remembering()
        MultiScale(model, scales=(1.0,), flips=("h",), fuse="logits")(random_images(1, 3, 65, 65))
        assert torch.equal(model.first, model.copy)


class TestBatches:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("fuse", ["probabilities", "logits"])
    def test_a_crop_has_the_same_bits_in_any_batch(self, fuse: Any, dtype: torch.dtype) -> None:
        # A crop alone is not the subject here: torch may then choose another convolution for the model.
        fused = MultiScale(TinySegmenter(num_classes=5).to(dtype), flips="d4", fuse=fuse)
        images_NCHW = random_images(5, 3, 65, 65)
        together = fused(images_NCHW)
        for first, last in ((0, 2), (1, 3), (2, 5)):
            assert torch.equal(fused(images_NCHW[first:last]), together[first:last])


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_models_get_their_type_and_give_float32(self, dtype: torch.dtype) -> None:
        model, images_NCHW = TinySegmenter(), random_images(2, 3, 65, 65)
        expected = MultiScale(model)(images_NCHW)
        half = model.to(dtype)
        half.seen.clear()
        got = MultiScale(half)(images_NCHW)
        assert got.dtype == torch.float32
        assert {seen for _, seen in half.seen} == {dtype}
        assert torch.allclose(got.sum(dim=1), torch.ones(2, 17, 17), atol=1e-5)
        assert 0 < (got - expected).abs().mean() < 0.01


class TestScales:
    @pytest.mark.parametrize(
        ("scale", "size_px"),
        [(0.5, 257), (0.75, 385), (1, 513), (1.25, 641), (1.5, 769), (1.75, 897), (2, 1025)],
    )
    def test_official_sizes(self, scale: float, size_px: int) -> None:
        assert scaled_size_px(513, scale, 16) == scaled_size_px(513, scale, 8) == size_px

    def test_a_scale_written_as_a_decimal_is_not_cut_short(self) -> None:
        assert 480 * 1.025 < 492  # so its integer part is one short
        assert scaled_size_px(481, 1.025, 4) == 493
        assert scaled_size_px(49, 1 / 3, 16) == 17

    def test_illegal_scales_are_refused_with_the_nearest_legal_ones(self) -> None:
        with pytest.raises(
            ValueError, match=r"multiple of 16, got scale 0\.8 .* 513 px.*use 0\.78125 or 0\.8125"
        ):
            scaled_size_px(513, 0.8, 16)
        with pytest.raises(ValueError, match=r"use 0\.796875 or 0\.8125"):
            scaled_size_px(513, 0.8, 8)
        with pytest.raises(ValueError, match=r"got scale 0\.01 .*use 0\.03125$"):
            scaled_size_px(513, 0.01, 16)

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_scale_must_be_a_positive_number(self, scale: float) -> None:
        with pytest.raises(ValueError, match="positive number"):
            scaled_size_px(513, scale, 16)

    @pytest.mark.parametrize(
        ("size_px", "named"), [(512, "497 or 513"), (514, "513 or 529"), (1, "17 or 33")]
    )
    def test_crops_off_the_lattice_are_refused_with_the_nearest_sizes(self, size_px: int, named: str) -> None:
        with pytest.raises(ValueError, match=f"got {size_px} px; use {named} px"):
            scaled_size_px(size_px, 1.0, 16)

    @pytest.mark.parametrize("images", [(1, 3, 64, 65), (1, 3, 65, 66)])
    def test_multiscale_refuses_what_the_model_cannot_place(self, images: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"crop size must be k·16 \+ 1 px"):
            MultiScale(TinySegmenter(), scales=(1.0,))(random_images(*images))

    @given(k=st.integers(1, 80), stride=st.sampled_from([1, 4, 8, 16, 32]), scale=st.floats(0.05, 4.0))
    def test_legal_neighbours_are_legal_and_nothing_legal_lies_between(
        self, k: int, stride: int, scale: float
    ) -> None:
        size_px = k * stride + 1
        neighbours = legal_scales(size_px, stride, near=scale)
        steps = [(scaled_size_px(size_px, legal, stride) - 1) // stride for legal in neighbours]
        if len(steps) == 2:
            assert steps[1] == steps[0] + 1
            assert neighbours[0] < scale < neighbours[1]
        elif neighbours[0] * k != pytest.approx(scale * k, abs=1e-6):
            assert steps == [1], "only below the smallest legal scale is there a single neighbour"
            assert scale < neighbours[0]

    @pytest.mark.parametrize("scales", [(), (1.0, 1.0)])
    def test_scales_must_be_given_and_differ(self, scales: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="scales must be one or more different factors"):
            MultiScale(TinySegmenter(), scales=scales)

    def test_fusing_anything_else_is_refused(self) -> None:
        with pytest.raises(ValueError, match="fuse must be one of probabilities, logits, got 'labels'"):
            MultiScale(TinySegmenter(), fuse="labels")  # type: ignore[arg-type]

    def test_settings_can_check_scales_without_torch(self) -> None:
        program = "import sys, deeplab_core.scales; print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
