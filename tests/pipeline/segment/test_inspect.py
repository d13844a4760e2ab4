"""What is refused, warned of and known before a plan is made: real files and a real checkpoint."""

import json
import logging

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from deeplab_core import ModelConfig, build_model
from deeplab_core.checkpoint import save_checkpoint
from pipeline.config import RunConfig
from pipeline.errors import ModelError, SettingsError, SourceError, StorageError
from pipeline.raster.window import Window
from pipeline.segment.inspect import check_crops, inspect

BANDS, MEAN, STD = ("red", "green", "nir"), (100.0, 110.0, 120.0), (20.0, 25.0, 30.0)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="resnet18", classes=("water", "land"), in_channels=3))
    save_checkpoint(model, path, mean=MEAN, std=STD, bands=BANDS)
    return path


def like_the_model(height=300, width=320, bands=3, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.resize(MEAN, bands)[:, None, None]
    return np.clip(rng.normal(centres, 22.0, (bands, height, width)), 1, 250).astype(np.uint8)


@pytest.fixture
def write(tmp_path):
    def write_raster(samples=None, *, names=None, nodata=None, crs="EPSG:32633"):
        samples = like_the_model() if samples is None else samples
        bands, height, width = samples.shape
        profile = {
            "driver": "GTiff",
            "count": bands,
            "height": height,
            "width": width,
            "dtype": samples.dtype,
        }
        profile["photometric"] = "MINISBLACK"  # else GDAL calls a fourth band alpha
        transform = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0) if crs else None
        path = tmp_path / "raster.tif"
        with rasterio.open(path, "w", **profile, crs=crs, transform=transform, nodata=nodata) as file:
            file.write(samples)
            if names:
                file.descriptions = names
        return path

    return write_raster


@pytest.fixture
def look(model_path, tmp_path):
    def look_at(raster, model=None, **groups):
        source = {"urls": str(raster)} | groups.pop("source", {})
        base = {
            "source": source,
            "model": {"url": str(model or model_path)},
            "output": {"url": str(tmp_path / "o")},
        }
        return inspect(RunConfig.model_validate(base | groups))

    return look_at


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_fits_is_described_and_nothing_is_written(look, write, caplog, tmp_path):
    raster = write(names=("Red", "Green", "NIR"))
    before = sorted(tmp_path.rglob("*"))
    seen = look(raster)
    assert seen.spec.bands == (1, 2, 3)
    assert seen.dtype == np.uint8
    assert seen.model.classes == ("water", "land")
    assert seen.region.box == Window(0, 0, 300, 320)
    assert (seen.source.grid.height, seen.source.grid.width) == (300, 320)
    assert warnings_of(caplog) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_scale_offset_mean_and_std_become_one_factor_and_one_summand(look, write):
    raster = write()
    seen = look(raster, source={"scale": [1.0, 0.5, 2.0], "offset": 3.0})
    raw = np.array([7.0, 80.0, 250.0])
    for channel, scale in enumerate((1.0, 0.5, 2.0)):
        expected = (raw * scale + 3.0 - MEAN[channel]) / STD[channel]
        np.testing.assert_allclose(raw * seen.gain[channel] + seen.bias[channel], expected)


@pytest.mark.parametrize("setting", ["scale", "offset"])
def test_numbers_for_another_count_of_bands_are_refused(look, write, setting):
    with pytest.raises(SettingsError, match=rf"source\.{setting} .* each of 3 bands, got 2"):
        look(write(), source={setting: [1.0, 2.0]})


def test_bands_are_taken_by_name_in_the_models_order(look, write):
    raster = write(like_the_model(bands=5), names=("nir", "blue", "red", "cirrus", "green"))
    assert look(raster).spec.bands == (3, 5, 1)
    assert look(raster, source={"bands": ["cirrus", 1, "blue"]}).spec.bands == (4, 1, 2)


def test_a_misfit_of_bands_is_refused_with_both_lists(look, write):
    with pytest.raises(ModelError) as refused:
        look(write(like_the_model(bands=2), names=("red", "swir")))
    message = str(refused.value)
    assert "takes 3 bands (red, green, nir)" in message
    assert "1 (red), 2 (swir)" in message
    assert "lacks green, nir" in message
    assert "source.bands" in message


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_a_misfit_of_counts_is_refused_with_both_counts(look, write, count):
    with pytest.raises(ModelError, match=rf"takes 3 bands .* the source has {count}"):
        look(write(like_the_model(bands=count)))


# Statistics


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (lambda raw: raw.astype(np.uint16) * 40, {}),
        (lambda raw: (raw / 255).astype(np.float32), {}),
        (lambda raw: raw, {"scale": 10.0}),
        (lambda raw: raw, {"offset": -500.0}),
        (lambda raw: raw // 40, {}),
    ],
    ids=["12 bit", "0 to 1", "scale", "offset", "flat and dark"],
)
def test_statistics_far_from_the_models_are_warned_of_with_both(look, write, caplog, change, settings):
    raster = write(change(like_the_model()))
    look(raster, source=settings)
    messages = warnings_of(caplog)
    assert len(messages) == 3
    for number, (message, mean, std, name) in enumerate(
        zip(messages, MEAN, STD, BANDS, strict=True), start=1
    ):
        assert message.startswith(f"band {number} has mean ")
        assert f"expects mean {mean:.4g} and std {std:.4g} ({name})" in message
        assert "source.scale" in message


def test_the_band_that_is_odd_is_named_by_its_number_in_the_file(look, write, caplog):
    raw = like_the_model(bands=4)
    raw[3] = 255
    look(write(raw), source={"bands": [1, 2, 4]})
    (message,) = warnings_of(caplog)
    assert message.startswith("band 4 has mean 255 and std 0 ")
    assert "nir" in message


def test_scaling_that_brings_values_home_is_not_warned_of(look, write, caplog):
    raw = like_the_model()
    look(write(raw.astype(np.uint16) * 40), source={"scale": 1 / 40})
    look(write(raw.astype(np.float32) / 255), source={"scale": 255.0})
    assert warnings_of(caplog) == []


def test_what_has_no_data_has_no_say_in_the_statistics(look, write, caplog):
    raw = like_the_model().astype(np.float32)
    raw[:, :, :200] = -9999
    look(write(raw, nodata=-9999))
    assert warnings_of(caplog) == []


def test_a_band_missing_where_others_have_data_is_judged_by_its_own_samples(look, write, caplog):
    raw = like_the_model().astype(np.float32)
    raw[2, :, 20:] = np.nan
    look(write(raw))
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (257, 255)])
def test_rasters_smaller_than_a_probe_and_without_data_are_looked_at(look, write, caplog, size):
    raw = np.broadcast_to(np.array(MEAN, np.uint8)[:, None, None], (3, *size)).copy()
    assert look(write(raw)).region.box == Window(0, 0, *size)
    look(write(np.zeros((3, *size), np.uint8), nodata=0))
    assert warnings_of(caplog) == []


def test_wide_samples_are_kept_as_torch_takes_them(look, write):
    assert look(write(like_the_model().astype(np.int32))).dtype == np.int32
    assert look(write(like_the_model().astype(np.float64))).dtype == np.float32


# Regions


def test_a_window_is_cut_to_the_source(look, write):
    assert look(write(), region={"window": [250, 300, 100, 5]}).region.box == Window(250, 300, 50, 5)
    assert look(write(), region={"window": [-10, -20, 30, 50]}).region.box == Window(0, 0, 20, 30)


@pytest.mark.parametrize("window", [[0, 0, 0, 5], [0, 0, 5, -1], [300, 0, 5, 5], [0, -9, 5, 9]])
def test_a_window_of_nothing_is_refused(look, write, window):
    with pytest.raises(SettingsError, match=r"region\.window must"):
        look(write(), region={"window": window})


def test_a_bbox_is_in_the_sources_crs(look, write):
    region = look(write(), region={"bbox": [500_100, 4_998_000, 500_400, 4_999_500]}).region
    assert region.box == Window(50, 10, 150, 30)
    with pytest.raises(SettingsError, match=r"region\.bbox must meet the source"):
        look(write(), region={"bbox": [0, 0, 10, 10]})


def test_a_polygon_is_in_longitude_and_latitude(look, write, tmp_path):
    corners = rasterio.warp.transform("EPSG:32633", "EPSG:4326", [500_500, 501_500], [4_999_500, 4_998_500])
    (west, east), (north, south) = corners
    ring = [[west, north], [east, north], [east, south], [west, south], [west, north]]
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    box = look(write(), region={"polygon": str(path)}).region.box
    assert abs(box.row - 50) <= 1
    assert abs(box.col - 50) <= 1
    assert abs(box.row_stop - 150) <= 1
    assert abs(box.col_stop - 150) <= 1


def test_a_polygon_needs_a_place_on_the_ground_and_a_file(look, write, tmp_path):
    with pytest.raises(StorageError, match=r"must be a file at .*nowhere\.geojson"):
        look(write(), region={"polygon": str(tmp_path / "nowhere.geojson")})
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}))
    with pytest.raises(SettingsError, match=r"georeferenced; use region\.window"):
        look(write(crs=None), region={"polygon": str(path)})


# What is not there


def test_a_folder_without_a_checkpoint_is_refused_with_what_it_must_hold(look, write, tmp_path):
    for folder in (tmp_path, tmp_path / "not there", write()):
        with pytest.raises(
            ModelError, match=r"--model must be .* model\.json .* no model\.json in .*"
        ) as refused:
            look(write(), model=folder)
        assert str(folder) in str(refused.value)


@pytest.mark.parametrize("content", ["{", "{}", '{"format": "other"}', "[]"])
def test_a_model_json_of_something_else_is_refused(look, write, tmp_path, content):
    folder = tmp_path / "other model"
    folder.mkdir()
    (folder / "model.json").write_text(content)
    with pytest.raises(ModelError, match="other model"):
        look(write(), model=folder)


def test_a_missing_raster_is_refused(look, tmp_path):
    with pytest.raises(SourceError, match=r"there is no such file"):
        look(tmp_path / "nowhere.tif")


def test_a_raster_damaged_in_places_is_warned_of_and_everywhere_refused(look, write, caplog):
    raster = write(like_the_model(1200, 320))
    data = raster.read_bytes()
    raster.write_bytes(data[: len(data) // 2])
    look(raster)
    assert any("blocks that need what cannot be read will fail" in text for text in warnings_of(caplog))
    raster.write_bytes(data[:20_000])
    with pytest.raises(SourceError, match=r"cannot read .*raster\.tif: .*Read error"):
        look(raster)


@pytest.mark.parametrize(
    ("crop", "multiple", "advice"), [(513, 32, None), (529, 32, "513 or 545"), (65, 16, None)]
)
def test_crops_must_suit_the_models_encoder(crop, multiple, advice):
    if advice is None:
        check_crops(crop, 48, input_multiple_px=multiple, node_px=4)
    else:
        with pytest.raises(
            SettingsError, match=rf"multiple of {multiple} plus 1 .* got {crop}; take {advice}"
        ):
            check_crops(crop, 48, input_multiple_px=multiple, node_px=4)
