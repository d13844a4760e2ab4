"""The mean field against loops over pixels, its locality, and what it is for: edges."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from deeplab_core.crf import CRF_PRESETS, CRFConfig, mean_field

SMALL = CRFConfig(
    appearance_weight=2.0,
    appearance_sigma_px=3.0,
    appearance_sigma_value=20.0,
    smoothness_weight=1.5,
    smoothness_sigma_px=1.2,
    window=5,
    iterations=3,
)


def looped_mean_field(
    probabilities: NDArray[np.float64],
    image: NDArray[np.float64],
    config: CRFConfig,
    valid: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """K×H×W and C×H×W, straight from the definition."""
    _, height, width = probabilities.shape
    reach = [config.dilation * step for step in range(-(config.window // 2), config.window // 2 + 1)]
    beliefs = probabilities.copy()
    for _ in range(config.iterations):
        updated = beliefs.copy()
        for y, x in zip(*np.nonzero(valid), strict=True):
            kernels: list[tuple[float, float, NDArray[np.float64]]] = []
            for dy in reach:
                for dx in reach:
                    inside = 0 <= y + dy < height and 0 <= x + dx < width and (dy, dx) != (0, 0)
                    if inside and valid[y + dy, x + dx]:
                        near = dy**2 + dx**2
                        alike = float(((image[:, y, x] - image[:, y + dy, x + dx]) ** 2).sum())
                        appearance = math.exp(
                            -near / (2 * config.appearance_sigma_px**2)
                            - alike / (2 * config.appearance_sigma_value**2)
                        )
                        smoothness = math.exp(-near / (2 * config.smoothness_sigma_px**2))
                        kernels.append((appearance, smoothness, beliefs[:, y + dy, x + dx]))
            message = np.zeros(len(beliefs))
            for weight, kind in ((config.appearance_weight, 0), (config.smoothness_weight, 1)):
                total = sum(kernel[kind] for kernel in kernels)
                message += sum(
                    (weight * kernel[kind] / total * kernel[2] for kernel in kernels), np.zeros(len(beliefs))
                )
            scores = np.maximum(probabilities[:, y, x], 1e-8) * np.exp(message)
            updated[:, y, x] = scores / scores.sum()
        beliefs = updated
    return beliefs


def make_case(
    batch: int = 2, height: int = 7, width: int = 9, classes: int = 3, bands: int = 2
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn((batch, classes, height, width), generator=generator).softmax(dim=1)
    return probabilities, torch.rand((batch, bands, height, width), generator=generator) * 60


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dilation": 2},
        {"window": 21},  # wider than the image
        {"smoothness_weight": 0},
        {"appearance_weight": 0},
    ],
)
def test_equals_a_loop_over_pixels_and_neighbours(changes: dict[str, float], masked: bool) -> None:
    config = SMALL.model_copy(update=changes)
    probabilities, images = make_case()
    valid = torch.ones((2, 7, 9), dtype=torch.bool)
    if masked:
        valid = torch.rand(valid.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    actual = mean_field(probabilities, images, config, valid if masked else None)
    for n in range(2):
        expected = looped_mean_field(probabilities[n].numpy(), images[n].numpy(), config, valid[n].numpy())
        assert actual[n].numpy() == pytest.approx(expected, abs=2e-6)


def test_one_update_of_two_pixels_by_hand() -> None:
    config = CRFConfig(
        appearance_weight=2,
        appearance_sigma_px=1,
        appearance_sigma_value=10,
        smoothness_weight=1,
        smoothness_sigma_px=1,
        window=3,
        iterations=1,
    )
    probabilities = torch.tensor([[[[0.9, 0.4]], [[0.1, 0.6]]]])
    images = torch.tensor([[[[100.0, 110.0]]]])
    # Each has the other as its only neighbour, so both kernels are 1 after division by their sum.
    first = [0.9 * math.exp(3 * 0.4), 0.1 * math.exp(3 * 0.6)]
    second = [0.4 * math.exp(3 * 0.9), 0.6 * math.exp(3 * 0.1)]
    expected = [[first[k] / sum(first), second[k] / sum(second)] for k in range(2)]
    assert mean_field(probabilities, images, config)[0, :, 0].numpy() == pytest.approx(np.array(expected))


@pytest.mark.parametrize(("dilation", "classes", "bands"), [(1, 3, 2), (2, 21, 13)])
def test_a_tile_with_its_halo_equals_the_whole_bit_for_bit(dilation: int, classes: int, bands: int) -> None:
    config = SMALL.model_copy(update={"dilation": dilation, "iterations": 2})
    assert config.halo_px == 2 * 2 * dilation
    probabilities, images = make_case(1, 40, 37, classes, bands)
    whole = mean_field(probabilities, images, config)
    halo = config.halo_px
    for top, left in product(range(0, 28, 9), range(0, 25, 7)):
        rows, columns = (slice(max(0, start - halo), start + 13 + halo) for start in (top, left))
        tile = mean_field(probabilities[..., rows, columns], images[..., rows, columns], config)
        inner = tile[..., top - rows.start :, left - columns.start :][..., :13, :13]
        assert torch.equal(inner, whole[..., top : top + 13, left : left + 13])


def test_the_halo_is_no_larger_than_needed() -> None:
    config = SMALL.model_copy(update={"iterations": 2})
    probabilities, images = make_case(batch=1, height=1, width=30)
    changed = probabilities.clone()
    changed[..., 0] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    difference = (mean_field(probabilities, images, config) - mean_field(changed, images, config)).abs()
    reached = difference.amax(dim=(0, 1, 2)) > 0
    assert reached[: config.halo_px + 1].all()
    assert not reached[config.halo_px + 1 :].any()


def test_values_far_apart_do_not_overflow_or_vanish_into_nan() -> None:
    probabilities, images = make_case()
    for scale in (1e6, 0.0):
        assert torch.isfinite(mean_field(probabilities, images * scale, SMALL)).all()
    certain = torch.nn.functional.one_hot(probabilities.argmax(dim=1), 3).movedim(-1, 1).float()
    certain[:, :, 3, 4] = 0.0  # a pixel that nothing was said about
    refined = mean_field(certain, images, SMALL)
    assert (refined > 0).all()  # nor is anything ever ruled out
    assert refined.sum(dim=1).numpy() == pytest.approx(np.ones((2, 7, 9)), abs=1e-5)


def test_masked_pixels_keep_their_values_and_touch_no_neighbour() -> None:
    probabilities, images = make_case()
    valid = torch.ones((2, 7, 9), dtype=torch.bool)
    valid[:, 2:5, 3] = False
    expected = mean_field(probabilities, images, SMALL, valid)
    assert torch.equal(expected[:, :, 2:5, 3], probabilities[:, :, 2:5, 3])
    assert torch.isfinite(expected).all()
    probabilities[:, :, 2:5, 3] = torch.nan
    images[:, :, 2:5, 3] = torch.nan
    actual = mean_field(probabilities, images, SMALL, valid)
    assert torch.equal(actual.movedim(1, -1)[valid], expected.movedim(1, -1)[valid])


def test_inputs_stay_untouched_and_half_precision_is_worked_on_in_float32() -> None:
    probabilities, images = make_case()
    before = probabilities.clone()
    expected = mean_field(probabilities, images, SMALL)
    assert torch.equal(probabilities, before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mean_field(probabilities, images, SMALL), expected)
    assert torch.equal(mean_field(probabilities.clone().requires_grad_(), images, SMALL), expected)
    halves = probabilities.bfloat16()
    assert mean_field(halves, images, SMALL).dtype == torch.float32
    assert torch.equal(mean_field(halves, images, SMALL), mean_field(halves.float(), images, SMALL))


def make_scene(seed: int = 0) -> tuple[NDArray[np.int64], torch.Tensor, torch.Tensor]:
    """Disc, bar and background of different colours with sensor noise; a noisy, blocky unary of them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:96, :96]
    truth = np.zeros((96, 96), np.int64)
    truth[(rows - 40) ** 2 + (columns - 36) ** 2 < 24**2] = 1
    truth[(np.abs(rows - columns - 6) < 7) & (columns > 50)] = 2
    colours = np.array([[60, 90, 70], [150, 110, 90], [100, 160, 170]])
    image = colours[truth] + rng.normal(0, 6, (96, 96, 3))
    scores = np.eye(3)[truth] * 1.6 + rng.normal(0, 1, (96, 96, 3))
    # As from a coarse lattice: every 4×4 pixels share the score of one of them.
    scores = 0.5 * scores + np.kron(scores[::4, ::4], np.ones((4, 4, 1)))
    unary = torch.from_numpy(scores).softmax(dim=-1).float().movedim(-1, 0)[None]
    return truth, torch.from_numpy(image).float().movedim(-1, 0)[None], unary


def error_rate(probabilities: torch.Tensor, truth: NDArray[np.int64]) -> float:
    return float((probabilities.argmax(dim=1)[0].numpy() != truth).mean())


@pytest.mark.parametrize("preset", CRF_PRESETS)
def test_it_removes_nine_tenths_of_the_errors_of_a_noisy_unary(preset: str) -> None:
    truth, image, unary = make_scene()
    before = error_rate(unary, truth)
    assert before > 0.1
    assert error_rate(mean_field(unary, image, CRF_PRESETS[preset]), truth) < before / 10


def test_appearance_follows_the_edges_that_smoothness_alone_rounds_off() -> None:
    truth, image, unary = make_scene()
    blind = CRFConfig(appearance_weight=0.0, smoothness_weight=7.0, smoothness_sigma_px=3.0)
    assert (
        error_rate(mean_field(unary, image), truth) < error_rate(mean_field(unary, image, blind), truth) / 2
    )


def test_presets_are_the_published_numbers() -> None:
    fields = (
        "appearance_weight",
        "appearance_sigma_px",
        "appearance_sigma_value",
        "smoothness_weight",
        "smoothness_sigma_px",
        "iterations",
    )
    table = {name: [getattr(config, field) for field in fields] for name, config in CRF_PRESETS.items()}
    assert table == {
        "deeplabv1": [4, 49, 5, 3, 3, 10],
        "deeplabv2_vgg16": [4, 65, 3, 2, 2, 10],
        "deeplabv2_resnet101": [4, 67, 3, 3, 1, 10],
    }
    assert CRFConfig() == CRF_PRESETS["deeplabv2_resnet101"]
    assert CRFConfig().halo_px == 50


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 10}, "window must be odd, so that it has a centre, got 10; take 11"),
        ({"appearance_sigma_px": 0}, "greater than 0"),
        ({"iterations": 0}, "greater than or equal to 1"),
        ({"sigma": 1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CRFConfig.model_validate(settings)


def test_inputs_that_do_not_lie_on_each_other_are_refused() -> None:
    probabilities, images = make_case()
    with pytest.raises(ValueError, match="must agree in N, H and W"):
        mean_field(probabilities, images[..., :-1], SMALL)
    with pytest.raises(ValueError, match="must agree in N, H and W"):
        mean_field(probabilities, images, SMALL, torch.ones((2, 7, 8), dtype=torch.bool))
    with pytest.raises(TypeError, match="valid must be a boolean mask"):
        mean_field(probabilities, images, SMALL, torch.ones((2, 7, 9)))
