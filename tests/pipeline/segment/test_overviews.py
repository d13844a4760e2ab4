"""Overviews against loops over pixels, and who writes which object."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import BlockArrays, Mosaic, MosaicLayout, MosaicWriter, create_mosaic
from pipeline.segment.overviews import (
    SQUARE_PX,
    OverviewWorker,
    create_overviews,
    factors,
    majority,
    mean,
    rounds,
    tasks,
)
from pipeline.storage import Folder

NODATA = 255


def squares(values):
    """Each 2 × 2 square's known values in reading order, with its place; edge squares are smaller."""
    for row in range(0, values.shape[0], 2):
        for col in range(0, values.shape[1], 2):
            part = [int(value) for value in values[row : row + 2, col : col + 2].ravel()]
            yield row // 2, col // 2, part


def majority_by_loop(values, nodata=NODATA):
    result = np.full(((values.shape[0] + 1) // 2, (values.shape[1] + 1) // 2), nodata, values.dtype)
    for row, col, part in squares(values):
        known = [value for value in part if value != nodata]
        if known:
            result[row, col] = max(known, key=lambda value: (known.count(value), -known.index(value)))
    return result


def mean_by_loop(values):
    result = np.full(((values.shape[0] + 1) // 2, (values.shape[1] + 1) // 2), NODATA, np.uint8)
    for row, col, part in squares(values):
        known = [value for value in part if value != NODATA]
        if known:
            result[row, col] = int(np.floor(sum(known) / len(known) + 0.5))
    return result


def random_classes(height, width, seed, num_classes=4, dtype=np.uint8, nodata=NODATA):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, num_classes + 1, (height, width)).astype(dtype)
    values[values == num_classes] = nodata
    return values


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.integers(1, 5))
def test_majority_is_that_of_a_loop(height, width, seed, num_classes):
    values = random_classes(height, width, seed, num_classes)
    np.testing.assert_array_equal(majority(values, NODATA), majority_by_loop(values))


def test_majority_of_more_than_255_classes():
    values = random_classes(21, 33, 1, 700, np.uint16, 65535)
    values[::2] = values[1::2][:1]
    np.testing.assert_array_equal(majority(values, 65535), majority_by_loop(values, 65535))
    assert majority(values, 65535).dtype == np.uint16


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_mean_is_that_of_a_loop(height, width, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([0, 1, 2, 3, 127, 253, 254, 255, 255], (height, width)).astype(np.uint8)
    result = mean(values)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, mean_by_loop(values))


@pytest.mark.parametrize(
    ("size", "expected", "bases"),
    [
        ((1, 1), [], []),
        ((1024, 1024), [], []),
        ((1, 1025), [2], [1]),
        ((8192, 5), [2, 4, 8], [1]),
        ((8193, 5), [2, 4, 8, 16], [1, 8]),
        ((70_001, 37), [2, 4, 8, 16, 32, 64, 128], [1, 8, 64]),
    ],
)
def test_levels_end_where_one_chunk_holds_the_mosaic(size, expected, bases):
    assert factors(*size) == expected
    assert rounds(*size) == bases
    if expected:
        assert -(-max(size) // expected[-1]) <= 1024 < -(-max(size) // (expected[-1] // 2))


@settings(deadline=None)
@given(st.integers(1, 300_000), st.integers(1, 300_000))
def test_rounds_and_tasks_cover_every_pixel_of_every_level(height, width):
    made = []
    for base in rounds(height, width):
        levels = [base << step for step in (1, 2, 3) if base << step in factors(height, width)]
        assert levels
        made += levels
        rows, cols = -(-height // base), -(-width // base)
        names = tasks(height, width, base)
        assert len(names) == len(set(names))
        places = {tuple(int(part) for part in name.split("/")) for name in names}
        assert {(row, col) for _, row, col in places} == {
            (row, col)
            for row in range((rows - 1) // SQUARE_PX + 1)
            for col in range((cols - 1) // SQUARE_PX + 1)
        }
    assert made == factors(height, width)


def written_mosaic(path, size, *, num_classes=4, seed=0):
    """A mosaic written at once, with holes without data."""
    names = tuple(f"class {index}" for index in range(num_classes))
    layout = MosaicLayout(Grid(*size), names, ("#000000",) * num_classes, "none", 4, {})
    folder = Folder.at(path)
    create_mosaic(folder, layout)
    create_overviews(folder, layout)
    classes = random_classes(*size, seed, num_classes, layout.class_dtype, layout.class_nodata)
    confidence = np.random.default_rng(seed).integers(0, 255, size).astype(np.uint8)
    confidence[classes == layout.class_nodata] = 255
    classes[: size[0] // 3, : size[1] // 3] = layout.class_nodata
    confidence[: size[0] // 3, : size[1] // 3] = 255
    MosaicWriter(folder, layout).write(layout.grid.window, BlockArrays(classes, confidence, None))
    return folder, layout, classes, confidence


def stored(path):
    """Every object of classes and confidence, told from a rewritten one by its inode and time."""
    files = [file for file in Path(path).glob("overviews/*/c[lo]*/c/*/*") if file.is_file()]
    return {str(file.relative_to(path)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def compute(path, folder, layout):
    """Run all tasks of all rounds; the objects that each of them wrote."""
    writes = []
    for base in rounds(*layout.grid.window.shape):
        for task in tasks(*layout.grid.window.shape, base):
            before = stored(path)
            assert OverviewWorker(folder, layout)(task) == {"state": "done"}
            after = stored(path)
            writes.append({key for key, state in after.items() if before.get(key) != state})
    return writes


@pytest.mark.parametrize("size", [(1025, 3), (2049, 1500), (8200, 41), (70_001, 9)])
def test_levels_equal_repeated_halving_of_the_whole_and_each_object_has_one_writer(size, tmp_path):
    folder, layout, classes, confidence = written_mosaic(tmp_path, size)
    writes = compute(tmp_path, folder, layout)
    mosaic = Mosaic.open(str(tmp_path))
    assert mosaic.overview_factors() == factors(*size)
    for factor in factors(*size):
        classes, confidence = majority_of_halves(classes), mean_of_halves(confidence)
        np.testing.assert_array_equal(mosaic.array(f"overviews/{factor}/classes")[:], classes)
        np.testing.assert_array_equal(mosaic.array(f"overviews/{factor}/confidence")[:], confidence)
        assert classes.shape == (-(-size[0] // factor), -(-size[1] // factor))
    assert all(writes)
    assert sum(len(keys) for keys in writes) == len(set().union(*writes)) == len(stored(tmp_path))


def majority_of_halves(values):
    """As the loop, but fast: votes of each class over padded quarters, the first in reading order."""
    even = np.pad(values, [(0, size % 2) for size in values.shape], constant_values=NODATA)
    quarters = np.stack([even[row::2, col::2] for row in (0, 1) for col in (0, 1)]).astype(int)
    votes = (quarters[:, None] == quarters[None]).sum(axis=0) * 10 - np.arange(4)[:, None, None]
    votes[quarters == NODATA] = -100
    return np.take_along_axis(quarters, votes.argmax(axis=0)[None], axis=0)[0].astype(values.dtype)


def mean_of_halves(values):
    even = np.pad(values, [(0, size % 2) for size in values.shape], constant_values=NODATA)
    quarters = np.stack([even[row::2, col::2] for row in (0, 1) for col in (0, 1)]).astype(float)
    known = quarters != NODATA
    total, count = (quarters * known).sum(axis=0), known.sum(axis=0)
    rounded = np.floor(total / np.maximum(count, 1) + 0.5)
    return np.where(count == 0, NODATA, rounded).astype(np.uint8)


def test_the_fast_oracles_are_the_loops():
    values = random_classes(31, 22, 5)
    np.testing.assert_array_equal(majority_of_halves(values), majority_by_loop(values))
    np.testing.assert_array_equal(mean_of_halves(values), mean_by_loop(values))


def test_doing_it_again_writes_the_same_bytes(tmp_path):
    folder, layout, _, _ = written_mosaic(tmp_path, (8200, 41))
    compute(tmp_path, folder, layout)
    first = {key: (tmp_path / key).read_bytes() for key in stored(tmp_path)}
    create_overviews(folder, layout)
    compute(tmp_path, folder, layout)
    assert {key: (tmp_path / key).read_bytes() for key in stored(tmp_path)} == first


def test_many_classes_keep_their_type(tmp_path):
    folder, layout, _, _ = written_mosaic(tmp_path, (1100, 30), num_classes=300)
    compute(tmp_path, folder, layout)
    level = Mosaic.open(str(tmp_path)).array("overviews/2/classes")[:]
    assert level.dtype == np.uint16
    assert (level == 65535).any()
    assert level[level != 65535].max() > 255
