"""The same ground, stored in another way, is the same mosaic to the byte."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling

from pipeline.config import RunConfig
from pipeline.segment.run import segment
from tests.pipeline.segment.scene import BANDS, array_objects, settings, write_scene


def run(source, model, output, **groups):
    return segment(RunConfig.model_validate(settings(source, model, output, **groups)))


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Samples, and where they are data."""
    path = write_scene(tmp_path_factory.mktemp("ground") / "scene.tif", 211, 307)
    with rasterio.open(path) as source:
        return path, source.read(), source.dataset_mask() > 0


@pytest.fixture(scope="module")
def expected(ground, light_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("expected") / "out.zarr"
    assert run(ground[0], light_model, output)["status"] == "complete"
    return array_objects(output)


def write(path: Path, samples, *, transform=Affine(10, 0, 500000, 0, -10, 5400000), bands=BANDS, **profile):  # noqa: B008 - frozen
    options = {
        "driver": "GTiff", "height": samples.shape[1], "width": samples.shape[2], "count": len(samples),
        "dtype": samples.dtype.name, "crs": "EPSG:32633", "transform": transform,
    }  # fmt: skip
    with rasterio.open(path, "w", **(options | profile)) as target:
        target.write(samples)
        target.descriptions = bands
    return path


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("int16", -32768),
        ("uint16", 65535),
        ("uint32", 4294967295),
        ("int32", -2147483648),
        ("float32", -3.4028234663852886e38),
        ("float64", float("nan")),
        ("float64", -1.7976931348623157e308),
        ("float64", 1e300),
        ("float32", float("nan")),
        ("int64", -9999),
    ],
)
def test_in_any_type_with_any_value_for_no_data(dtype, nodata, ground, light_model, expected, tmp_path):
    _, samples, there = ground
    stored = samples.astype(dtype)
    stored[:, ~there] = nodata
    source = write(tmp_path / "scene.tif", stored, nodata=nodata)
    run(source, light_model, tmp_path / "out.zarr")
    assert array_objects(tmp_path / "out.zarr") == expected


@pytest.mark.parametrize("internal", [True, False])
def test_with_a_mask_and_overviews_of_both(internal, ground, light_model, expected, tmp_path):
    _, samples, there = ground
    filled = np.where(there, samples, 77).astype(np.uint8)  # what is masked must not be seen
    source = write(tmp_path / "scene.tif", filled, tiled=True, blockxsize=64, blockysize=64)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(source, "r+") as target:
        target.write_mask(there)
        target.build_overviews([2, 4], Resampling.average)
    assert (tmp_path / "scene.tif.msk").exists() != internal
    run(source, light_model, tmp_path / "out.zarr")
    assert array_objects(tmp_path / "out.zarr") == expected


def test_on_a_rotated_grid(ground, light_model, expected, tmp_path):
    _, samples, there = ground
    stored = np.where(there, samples, 0)
    turned = Affine.translation(500000, 5400000) @ Affine.rotation(31) @ Affine.scale(10, -10)
    source = write(tmp_path / "scene.tif", stored, transform=turned, nodata=0)
    run(source, light_model, tmp_path / "out.zarr")
    placed = {name for name in expected if name.split("/")[0] in ("x", "y", "lattice_x", "lattice_y")}
    found = array_objects(tmp_path / "out.zarr")
    same = {name for name in expected if name.startswith(("classes/", "confidence/", "logits/"))}
    assert placed
    assert same
    assert {name: found.get(name) for name in same} == {name: expected[name] for name in same}


def test_among_sixty_four_bands(ground, light_model, expected, tmp_path):
    _, samples, there = ground
    stored = np.full((64, *there.shape), 13, np.uint8)
    places = (63, 5, 31)
    for place, band in zip(places, samples, strict=True):
        stored[place] = np.where(there, band, 0)
    stored[:, ~there] = 0
    names = [f"band {number}" for number in range(64)]
    for place, name in zip(places, BANDS, strict=True):
        names[place] = name
    source = write(tmp_path / "scene.tif", stored, bands=names, nodata=0)
    run(source, light_model, tmp_path / "out.zarr")
    assert array_objects(tmp_path / "out.zarr") == expected
