"""Image and labels change together, and what has no data stays without."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from pipeline.raster.window import Window
from pipeline.train.config import AugmentSettings
from pipeline.train.samples.augment import Change, Crop, apply_change, draw_change, draw_scale, resize_crop

SIDE = 33
STILL = AugmentSettings(flips=False, quarter_turns=False, brightness=0, contrast=0)


def make_crop(bands: int = 2, seed: int = 0) -> Crop:
    """Band 0 repeats the labels, so that whatever moves one must move the other."""
    rng = np.random.default_rng(seed)
    labels_HW = rng.integers(0, 5, (SIDE, SIDE)).astype(np.uint8)
    valid_HW = rng.random((SIDE, SIDE)) > 0.2
    image_CHW = rng.normal(size=(bands, SIDE, SIDE)).astype(np.float32)
    image_CHW[0] = labels_HW
    image_CHW[:, ~valid_HW] = 0
    labels_HW[~valid_HW] = 255
    return Crop(
        tv_tensors.Image(torch.from_numpy(image_CHW)),
        tv_tensors.Mask(torch.from_numpy(labels_HW)[None]),
        tv_tensors.Mask(torch.from_numpy(valid_HW)[None]),
    )


def still(bands: int = 2, **changes) -> Change:
    nothing = {
        "mirror": False, "upend": False, "turns": 0, "sigma_px": None, "patches": (),
        "contrast_C": np.ones(bands, np.float32), "brightness_C": np.zeros(bands, np.float32),
    }  # fmt: skip
    return Change(**(nothing | changes))


def arrays(crop: Crop) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return crop.image.numpy(), crop.labels[0].numpy(), crop.valid[0].numpy()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("upend", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_flips_and_turns_move_whole_pixels_of_image_and_labels_alike(mirror, upend, turns):
    crop = make_crop()
    changed = apply_change(crop, still(mirror=mirror, upend=upend, turns=turns))
    for before, after in zip(arrays(crop), arrays(changed), strict=True):
        expected = before[..., ::-1] if mirror else before
        expected = expected[..., ::-1, :] if upend else expected
        np.testing.assert_array_equal(after, np.rot90(expected, turns, axes=(-2, -1)))


def test_all_eight_positions_come_about_equally_often():
    rng = np.random.default_rng(0)
    settings = AugmentSettings()
    drawn = [draw_change(rng, settings, num_bands=3, crop_px=SIDE) for _ in range(3200)]
    crop = make_crop()
    seen: dict[bytes, int] = {}
    for change in drawn:
        alone = still(mirror=change.mirror, upend=change.upend, turns=change.turns)
        key = apply_change(crop, alone).labels.numpy().tobytes()
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 8
    assert min(seen.values()) > 320


@pytest.mark.parametrize("bands", [1, 4, 13])
def test_brightness_and_contrast_work_band_by_band_for_any_number_of_bands(bands):
    crop = make_crop(bands)
    contrast_C = np.linspace(0.5, 2, bands).astype(np.float32)
    brightness_C = np.linspace(-1, 1, bands).astype(np.float32)
    image, labels, valid = arrays(apply_change(crop, still(contrast_C=contrast_C, brightness_C=brightness_C)))
    before = crop.image.numpy()
    for band in range(bands):
        expected = before[band] * contrast_C[band] + brightness_C[band]
        np.testing.assert_allclose(image[band][valid], expected[valid], rtol=1e-6)
    assert (image[:, ~valid] == 0).all(), "what has no data is the mean, however bright the rest"
    np.testing.assert_array_equal(labels, crop.labels[0].numpy())


def test_half_of_the_brightness_is_shared_by_all_bands():
    rng = np.random.default_rng(0)
    drawn = [draw_change(rng, AugmentSettings(brightness=0.4), num_bands=4, crop_px=SIDE) for _ in range(300)]
    shifts_NC = np.array([change.brightness_C for change in drawn])
    assert np.abs(shifts_NC).max() <= 0.4
    assert np.ptp(shifts_NC, axis=1).max() <= 0.4
    assert 0.4 < np.corrcoef(shifts_NC[:, 0], shifts_NC[:, 1])[0, 1] < 0.6


def test_patches_lose_data_and_labels():
    patch = Window(3, 20, 7, 10)
    crop = make_crop()
    image, labels, valid = arrays(apply_change(crop, still(patches=(patch,))))
    inside = np.zeros((SIDE, SIDE), bool)
    inside[patch.slices] = True
    assert (image[:, inside] == 0).all()
    assert (labels[inside] == 255).all()
    assert not valid[inside].any()
    np.testing.assert_array_equal(labels[~inside], crop.labels[0].numpy()[~inside])
    assert crop.valid[0].numpy()[inside].any(), "the crop itself is left alone"


def test_drawn_patches_lie_inside_and_are_as_frequent_as_asked():
    rng = np.random.default_rng(0)
    drawn = [
        draw_change(rng, AugmentSettings(nodata_share=0.3), num_bands=1, crop_px=SIDE) for _ in range(400)
    ]
    share = np.mean([bool(change.patches) for change in drawn])
    assert share == pytest.approx(0.3, abs=0.07)
    for patch in (patch for change in drawn for patch in change.patches):
        assert Window(0, 0, SIDE, SIDE).contains(patch)


def test_a_blur_smooths_the_image_and_spares_the_labels():
    crop = make_crop()
    image, labels, valid = arrays(apply_change(crop, still(sigma_px=1.2)))
    assert image[1].std() < 0.6 * crop.image[1].std()
    assert (image[:, ~valid] == 0).all()
    np.testing.assert_array_equal(labels, crop.labels[0].numpy())
    rng = np.random.default_rng(0)
    settings = AugmentSettings(blur_share=0.5, blur_sigma_px=2.0)
    sigmas = [draw_change(rng, settings, num_bands=1, crop_px=SIDE).sigma_px for _ in range(400)]
    given = [sigma for sigma in sigmas if sigma is not None]
    assert len(given) == pytest.approx(200, abs=40)
    assert 0.3 <= min(given) < max(given) <= 2.0


def test_nothing_asked_for_changes_nothing():
    crop = make_crop()
    change = draw_change(np.random.default_rng(5), STILL, num_bands=2, crop_px=SIDE)
    for before, after in zip(arrays(crop), arrays(apply_change(crop, change)), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("side", [17, 33, 65])
def test_resizing_keeps_image_and_labels_in_place(side):
    """A square of another class in a flat image: its centre and size scale with the crop."""
    labels_HW = torch.zeros((1, SIDE, SIDE), dtype=torch.uint8)
    labels_HW[:, 8:16, 12:28] = 3
    crop = Crop(
        tv_tensors.Image(labels_HW.float()), tv_tensors.Mask(labels_HW), tv_tensors.Mask(labels_HW < 9)
    )
    resized = resize_crop(crop, side)
    assert resized.image.shape == (1, side, side)
    assert resized.labels.dtype == torch.uint8
    assert set(resized.labels.unique().tolist()) == {0, 3}
    factor = side / SIDE
    for mask in (resized.labels[0] == 3, resized.image[0] > 1.5):
        rows, cols = np.nonzero(mask.numpy())
        assert rows.mean() + 0.5 == pytest.approx(12 * factor, abs=0.75)
        assert cols.mean() + 0.5 == pytest.approx(20 * factor, abs=0.75)


def test_scales_are_even_in_log():
    rng = np.random.default_rng(0)
    scales = np.array([draw_scale(rng, AugmentSettings(scale=(0.5, 2.0))) for _ in range(2000)])
    assert 0.5 <= scales.min() < 0.52
    assert 1.9 < scales.max() <= 2.0
    assert np.mean(scales < 1) == pytest.approx(0.5, abs=0.04)
