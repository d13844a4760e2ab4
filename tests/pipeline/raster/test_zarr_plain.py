"""Plain Zarr, as xarray, rioxarray and GDAL write it: grids, bands, missing values, planes."""

import logging
import warnings

import numpy as np
import pytest
import rioxarray  # noqa: F401 - gives xarray its .rio
import xarray as xr
import zarr
from affine import Affine
from pyproj import CRS
from zarr.errors import UnstableSpecificationWarning

from pipeline.errors import SettingsError, SourceError
from pipeline.raster.levels import LevelWish
from pipeline.raster.plane import Plane
from pipeline.raster.window import Window
from pipeline.raster.zarrs.find import find_zarr
from pipeline.raster.zarrs.image import ZarrWish
from tests.pipeline.raster.zarrs import smooth

HEIGHT, WIDTH = 40, 60
TRANSFORM = Affine(10, 0, 399_960, 0, -10, 5_000_040)
UTM = CRS.from_epsg(32633)
FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


def axes(transform=TRANSFORM, dtype=np.float64):
    """Centres of the pixels, as CF has them."""
    x = transform.c + transform.a * (np.arange(WIDTH) + 0.5)
    y = transform.f + transform.e * (np.arange(HEIGHT) + 0.5)
    return {"y": y.astype(dtype), "x": x.astype(dtype)}


def dataset(variables, coords=None, *, crs=UTM, **attributes):
    made = xr.Dataset(variables, coords=axes() if coords is None else coords, attrs=attributes)
    return made if crs is None else made.rio.write_crs(crs)


def store(made, path, zarr_format=3):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UnstableSpecificationWarning
        )  # texts, which version 3 does not know yet
        made.to_zarr(str(path), zarr_format=zarr_format, consolidated=zarr_format == 2, mode="w")
    return str(path)


def find(url, **wish):
    return find_zarr(url, ZarrWish(**wish))


def read(found, *bands, plane=None):
    source = found.spec(bands).open()
    return (source if plane is None else source.at(plane)).read(found.info.grid.window)


def same_crs(wkt, crs):
    return CRS.from_wkt(wkt).equals(crs, ignore_axis_order=True)


@FORMATS
def test_bands_of_one_variable_with_names(zarr_format, tmp_path):
    values = smooth((3, HEIGHT, WIDTH))
    coords = axes() | {"band": ["red", "green", "nir"]}
    made = dataset({"scene": (("band", "y", "x"), values)}, coords)
    found = find(store(made, tmp_path / "a.zarr", zarr_format))
    assert [band.name for band in found.info.bands] == ["red", "green", "nir"]
    assert found.info.grid.transform == TRANSFORM
    assert same_crs(found.info.grid.crs_wkt, UTM)
    np.testing.assert_array_equal(read(found, 3, 1).samples_CHW, values[[2, 0]])


@FORMATS
def test_several_variables_are_bands(zarr_format, tmp_path):
    values = {name: smooth((HEIGHT, WIDTH), seed) for seed, name in enumerate(("B04", "B02", "B03"))}
    made = dataset({name: (("y", "x"), band) for name, band in values.items()})
    found = find(store(made, tmp_path / "a.zarr", zarr_format))
    assert [band.name for band in found.info.bands] == ["B02", "B03", "B04"]
    np.testing.assert_array_equal(read(found, 1, 3).samples_CHW, [values["B02"], values["B04"]])
    one = find(str(tmp_path / "a.zarr" / "B03"))
    assert [band.name for band in one.info.bands] == ["B03"]
    assert one.info.grid == found.info.grid
    np.testing.assert_array_equal(read(one, 1).samples_CHW, [values["B03"]])


def test_upside_down_rasters_keep_their_place(tmp_path):
    upward = Affine(10, 0, 399_960, 0, 10, 5_000_040)
    made = dataset({"a": (("y", "x"), smooth((HEIGHT, WIDTH)))}, axes(upward))
    assert find(store(made, tmp_path / "a.zarr")).info.grid.transform == upward


def test_geographic_by_its_coordinates_alone(tmp_path):
    coords = {
        "lat": ("lat", 50 - 0.1 * np.arange(HEIGHT, dtype=np.float32), {"standard_name": "latitude"}),
        "lon": ("lon", 10 + 0.1 * np.arange(WIDTH, dtype=np.float32), {"standard_name": "longitude"}),
    }
    made = xr.Dataset({"a": (("lat", "lon"), smooth((HEIGHT, WIDTH)))}, coords=coords)
    grid = find(store(made, tmp_path / "a.zarr")).info.grid
    assert same_crs(grid.crs_wkt, CRS.from_epsg(4326))
    np.testing.assert_allclose(list(grid.transform)[:6], [0.1, 0, 9.95, 0, -0.1, 50.05], atol=1e-5)


def test_a_transform_left_behind_by_a_cut_is_not_believed(tmp_path, caplog):
    made = dataset({"a": (("y", "x"), smooth((HEIGHT, WIDTH)))}).rio.write_transform(TRANSFORM)
    cut = made.isel(y=slice(5, None), x=slice(7, None))
    with caplog.at_level(logging.WARNING):
        grid = find(store(cut, tmp_path / "a.zarr")).info.grid
    assert grid.transform == TRANSFORM @ Affine.translation(7, 5)
    assert "disagrees with its coordinates" in caplog.text


def test_a_rotated_transform_is_read(tmp_path):
    rotated = TRANSFORM @ Affine.rotation(20)
    made = dataset({"a": (("y", "x"), smooth((HEIGHT, WIDTH)))}, {}).rio.write_transform(rotated)
    grid = find(store(made, tmp_path / "a.zarr")).info.grid
    np.testing.assert_allclose(list(grid.transform)[:6], list(rotated)[:6], rtol=1e-12)
    assert same_crs(grid.crs_wkt, UTM)


@pytest.mark.parametrize(
    "crs", [{"proj:code": "EPSG:32633"}, {"proj:wkt2": UTM.to_wkt()}, {"proj:projjson": UTM.to_json_dict()}]
)
@pytest.mark.parametrize("registration", ["pixel", "node"])
def test_geozarr_conventions(crs, registration, tmp_path):
    at = TRANSFORM if registration == "pixel" else TRANSFORM @ Affine.translation(0.5, 0.5)
    attributes = {"spatial:transform": list(at)[:6], "spatial:registration": registration, **crs}
    group = zarr.create_group(str(tmp_path / "a.zarr"), attributes=attributes)
    group.create_array("data", data=smooth((2, HEIGHT, WIDTH)), dimension_names=("band", "y", "x"))
    grid = find(str(tmp_path / "a.zarr")).info.grid
    assert grid.transform == TRANSFORM
    assert same_crs(grid.crs_wkt, UTM)


def test_gdal_crs_attribute(tmp_path):
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(20, 30), dtype="u1", chunks=(20, 30))
    array.attrs["_CRS"] = {"wkt": UTM.to_wkt()}
    assert same_crs(find(str(tmp_path / "a.zarr")).info.grid.crs_wkt, UTM)


def test_without_any_word_pixels_lie_nowhere(tmp_path):
    values = smooth((4, 20, 30))
    zarr.create_array(str(tmp_path / "a.zarr"), data=values)
    found = find(str(tmp_path / "a.zarr"))
    assert not found.info.grid.is_georeferenced
    np.testing.assert_array_equal(read(found, 4).samples_CHW[0], values[3])


def test_uneven_coordinates_are_refused(tmp_path):
    coords = axes()
    coords["x"][30:] += 3
    made = dataset({"a": (("y", "x"), smooth((HEIGHT, WIDTH)))}, coords)
    with pytest.raises(SourceError, match="coordinates must be evenly spaced, but 'x' is not"):
        find(store(made, tmp_path / "a.zarr"))


@FORMATS
@pytest.mark.parametrize(
    ("dtype", "missing"), [("float32", -9999.5), ("float32", np.nan), ("uint16", 65535), ("int64", 2**63 - 1)]
)
def test_missing_values_as_xarray_writes_them(zarr_format, dtype, missing, tmp_path):
    values = smooth((2, HEIGHT, WIDTH)).astype(dtype)
    values[:, :4], values[1, 4:9] = missing, missing
    made = dataset({"a": (("band", "y", "x"), values)})
    made["a"].encoding["_FillValue"] = np.dtype(dtype).type(missing)
    pixels = read(find(store(made, tmp_path / "a.zarr", zarr_format)), 1, 2)
    rows = np.arange(HEIGHT)[:, None]
    np.testing.assert_array_equal(pixels.valid_HW, np.broadcast_to(rows >= 4, (HEIGHT, WIDTH)))
    np.testing.assert_array_equal(
        pixels.missing_CHW[1], np.broadcast_to((rows >= 4) & (rows < 9), (HEIGHT, WIDTH))
    )
    assert np.isfinite(pixels.samples_CHW).all()
    np.testing.assert_array_equal(pixels.samples_CHW[0, 4:], values[0, 4:].astype(pixels.samples_CHW.dtype))


@FORMATS
def test_zero_is_a_value_unless_declared(zarr_format, tmp_path):
    made = dataset({"a": (("y", "x"), np.zeros((HEIGHT, WIDTH), np.uint8))})
    assert read(find(store(made, tmp_path / "a.zarr", zarr_format)), 1).valid_HW.all()


def test_scaling_is_declared_and_not_applied(tmp_path):
    values = smooth((HEIGHT, WIDTH), dtype=np.uint16)
    made = dataset({"a": (("y", "x"), values)})
    made["a"].attrs |= {"scale_factor": 0.0001, "add_offset": -0.1}
    found = find(store(made, tmp_path / "a.zarr"))
    assert (found.info.bands[0].scale, found.info.bands[0].offset) == (0.0001, -0.1)
    np.testing.assert_array_equal(read(found, 1).samples_CHW[0], values)


@FORMATS
def test_a_cube_of_times_and_depths(zarr_format, tmp_path):
    values = smooth((3, 2, 4, HEIGHT, WIDTH))
    times = np.array(["2024-05-01", "2024-05-02", "2024-05-09"], "datetime64[ns]")
    coords = axes() | {"time": times, "depth": [0.0, 0.5, 1.0, 1.5], "band": ["a", "b"]}
    made = dataset({"cube": (("time", "band", "depth", "y", "x"), values)}, coords)
    found = find(store(made, tmp_path / "a.zarr", zarr_format))
    assert found.info.stack.shape == (3, 4)
    assert found.info.stack.t.positions == (0.0, 1.0, 8.0)
    assert found.info.stack.t.unit.startswith("days since 2024-05-01")
    assert found.info.stack.z.positions == (0.0, 0.5, 1.0, 1.5)
    np.testing.assert_array_equal(read(found, 2, plane=Plane(2, 1)).samples_CHW[0], values[2, 1, 1])


@pytest.mark.parametrize("style", ["geozarr", "ndpyramid"])
def test_pyramids_of_groups(style, tmp_path):
    root = tmp_path / "a.zarr"
    values = smooth((HEIGHT, WIDTH))
    listed = [{"asset": "full"}, {"asset": "half"}]
    datasets = [{"path": "full"}, {"path": "half"}]
    scales = {"layout": listed} if style == "geozarr" else [{"datasets": datasets, "type": "reduce"}]
    zarr.create_group(str(root), attributes={"multiscales": scales})
    store(dataset({"a": (("y", "x"), values)}), root / "full")
    coarse = {name: centres.reshape(-1, 2).mean(1) for name, centres in axes().items()}
    store(dataset({"a": (("y", "x"), values[::2, ::2])}, coarse), root / "half")
    found = find(str(root), level=LevelWish(resolution=20.0))
    assert found.level == "half"
    assert found.info.grid.transform == TRANSFORM @ Affine.scale(2)
    np.testing.assert_array_equal(read(found, 1).samples_CHW[0], values[::2, ::2])
    assert find(str(root)).info.grid.window == Window(0, 0, HEIGHT, WIDTH)
    with pytest.raises(SettingsError, match=r"source\.um_per_px needs a source that tells"):
        find(str(root), level=LevelWish(um_per_px=20.0))


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(SourceError, match="must be a Zarr group or array"):
        find(str(tmp_path / "absent.zarr"))
    group = zarr.create_group(str(tmp_path / "a.zarr"))
    with pytest.raises(SourceError, match="must hold an array of dimensions y and x, got nothing"):
        find(str(tmp_path / "a.zarr"))
    group.create_array("a", data=np.zeros((8, 9)), dimension_names=("y", "x"))
    with pytest.raises(SettingsError, match=r"source\.level must be below 1, got 1"):
        find(str(tmp_path / "a.zarr"), level=LevelWish(number=1))
    with pytest.raises(SettingsError, match="does not say how large its pixels are"):
        find(str(tmp_path / "a.zarr"), level=LevelWish(resolution=10.0))
    assert find(str(tmp_path / "a.zarr"), level=LevelWish(number=0)).level == ""
    group.create_array("b", data=np.zeros((8, 10)), dimension_names=("y", "x"))
    with pytest.raises(SourceError, match="one size, got a of 8 × 9, b of 8 × 10"):
        find(str(tmp_path / "a.zarr"))


@pytest.mark.parametrize("names", [("a", "b", "y", "x"), ("y", "x", "band")])
def test_dimensions_that_say_too_much_are_refused(names, tmp_path):
    group = zarr.create_group(str(tmp_path / "a.zarr"))
    group.create_array("a", data=np.zeros((2, 3, 8, 9)[-len(names) :]), dimension_names=names)
    with pytest.raises(SourceError, match=r"one dimension of bands at most|an array of dimensions y and x"):
        find(str(tmp_path / "a.zarr"))


def test_complex_numbers_are_refused(tmp_path):
    zarr.create_array(str(tmp_path / "a.zarr"), data=np.zeros((8, 9), np.complex64))
    with pytest.raises(SourceError, match="bands must hold real numbers, got complex64"):
        find(str(tmp_path / "a.zarr"))
