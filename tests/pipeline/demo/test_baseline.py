"""The rivals: the fit is the best one, and they are judged on the right pixels."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.demo.baseline import compare, sample
from pipeline.errors import TerrazzoError
from pipeline.train.baselines.pixel_model import fit

IGNORED = 255


def mean_loss(model, bands_CP, labels_P, change=0.0):
    """The loss that the fit minimises, a pixel at a time."""
    total = 0.0
    for pixel, label in zip(bands_CP.T, labels_P, strict=True):
        inputs = [*((pixel - model.mean_C) / model.std_C), 1.0]
        scores = inputs @ (model.weights_CK + change)
        total += np.log(np.exp(scores).sum()) - scores[label]
    return total / len(labels_P)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_other_weights_fit_better(seed):
    random = np.random.default_rng(seed)
    bands_CP = random.integers(0, 5000, (3, 60)).astype(np.uint16)
    labels_P = random.integers(0, 4, 60).astype(np.uint8)
    model = fit(bands_CP, labels_P, num_classes=4)
    best = mean_loss(model, bands_CP, labels_P)
    for _ in range(20):
        change = random.normal(0, 0.05, model.weights_CK.shape)
        assert mean_loss(model, bands_CP, labels_P, change) > best - 1e-5


def test_the_likeliest_class_is_predicted():
    random = np.random.default_rng(0)
    bands_CP = random.integers(0, 10_000, (4, 300)).astype(np.uint16)
    labels_P = (bands_CP[3] // 2500).astype(np.uint8)
    model = fit(bands_CP, labels_P, num_classes=5)  # of the fifth class there is none
    inputs_PC = np.c_[((bands_CP.T - model.mean_C) / model.std_C), np.ones(300)]
    assert np.array_equal(model.predict(bands_CP), (inputs_PC @ model.weights_CK).argmax(axis=1))
    assert (model.predict(bands_CP) == labels_P).mean() > 0.9
    assert model.class_pixels_K.tolist() == [*np.bincount(labels_P), 0]


def write(path, values_CHW, col=0, row=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values_CHW.shape
    profile = {
        "count": count,
        "height": height,
        "width": width,
        "dtype": values_CHW.dtype,
        "crs": "EPSG:32633",
    }
    transform = Affine(10, 0, 500_000 + 10 * col, 0, -10, 5_000_000 - 10 * row)
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **profile) as target:
        target.write(values_CHW)


@pytest.fixture
def small_land(tmp_path):
    """Two classes that one band tells apart, learnt in the west, and a part held out that starts within."""
    random = np.random.default_rng(1)
    labels_HW = (random.random((700, 120)) < 0.7).astype(np.uint8)
    image_CHW = np.stack(
        [100 + 800 * labels_HW.astype(int), random.integers(1, 999, labels_HW.shape)]
    ).astype(np.uint16)
    labels_HW[:, ::7] = IGNORED
    write(tmp_path / "scene.tif", image_CHW)
    for i, rows in enumerate((slice(0, 300), slice(300, 700))):
        for part, values_CHW in (("images", image_CHW), ("labels", labels_HW[None])):
            write(tmp_path / f"tiles/{part}/{i}.tif", values_CHW[:, rows, :60], row=rows.start)
    write(tmp_path / "held_out.tif", labels_HW[None, :, 80:], col=80)
    return tmp_path, labels_HW


def test_rivals_are_judged_where_the_labels_lie(small_land):
    folder, labels_HW = small_land
    found = compare(
        folder / "tiles", folder / "scene.tif", folder / "held_out.tif", num_classes=2, ignored=IGNORED
    )
    held_out = labels_HW[:, 80:]
    ones, known = (held_out == 1).sum(), (held_out != IGNORED).sum()
    assert found["logistic_regression"]["miou"] == 1.0  # one column aside, half of it would be wrong
    assert found["majority_class"]["class"] == 1
    assert found["majority_class"]["iou"] == pytest.approx([0.0, ones / known])
    assert found["majority_class"]["pixel_accuracy"] == pytest.approx(ones / known)
    assert np.sum(found["logistic_regression"]["confusion"]) == known
    assert found["fitted_pixels"] == (labels_HW[:, :60] != IGNORED).sum()


def test_pixels_that_nobody_labelled_are_not_learnt_from(small_land):
    folder, _ = small_land
    bands_CP, labels_P = sample(folder / "tiles", ignored=IGNORED)
    assert set(labels_P) == {0, 1}
    assert np.array_equal(bands_CP[0], 100 + 800 * labels_P.astype(int))


def test_without_tiles_there_is_no_rival(tmp_path):
    with pytest.raises(TerrazzoError, match="must hold tiles to fit the baseline to"):
        sample(tmp_path, ignored=IGNORED)
