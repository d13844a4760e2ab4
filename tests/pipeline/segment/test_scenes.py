"""Whole runs over many scenes: what one raster would give, however it is cut, killed or stored."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds

from jobs.segment_region import main
from pipeline.config import RunConfig
from pipeline.errors import MismatchError
from pipeline.raster.mosaic import Mosaic
from pipeline.segment.inspect import inspect
from pipeline.segment.run import plan_only, segment
from tests.pipeline.segment.processes import job_of, kill_after_a_block, make_bucket, run_job, upload
from tests.pipeline.segment.scene import (
    BANDS,
    MEAN,
    STD,
    array_objects,
    ledger_records,
    settings,
    write_config,
    write_scene,
)

HEIGHT, WIDTH = 2100, 300  # three blocks, one below the other
CUTS = ((0, 0, 700, 180), (0, 150, 700, 300), (670, 0, 1400, 300), (1370, 0, 1750, 300), (1720, 0, 2100, 300))


def write_part(path: Path, source, cut) -> None:
    """Some of a raster's pixels as a scene of their own, on the same grid."""
    top, left, bottom, right = cut
    window = ((top, bottom), (left, right))
    profile = source.profile | {
        "height": bottom - top,
        "width": right - left,
        "transform": source.transform @ Affine.translation(left, top),
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(source.read(window=window))
        target.descriptions = BANDS


@pytest.fixture(scope="module")
def model(light_model) -> Path:
    return light_model


@pytest.fixture(scope="module")
def landscape(tmp_path_factory) -> Path:
    return write_scene(tmp_path_factory.mktemp("landscape") / "one.tif", HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def parts(landscape, tmp_path_factory) -> Path:
    """One raster as five scenes that overlap."""
    folder = tmp_path_factory.mktemp("parts")
    with rasterio.open(landscape) as source:
        for number, cut in enumerate(CUTS):
            write_part(folder / f"part{number}.tif", source, cut)
    return folder


@pytest.fixture(scope="module")
def mixed(parts, tmp_path_factory) -> Path:
    """Four of them, and instead of the fifth one in the neighbouring UTM zone, at another resolution."""
    folder = tmp_path_factory.mktemp("mixed")
    for part in sorted(parts.glob("*.tif"))[:4]:
        (folder / part.name).symlink_to(part)
    with rasterio.open(parts / "part4.tif") as last:
        box = transform_bounds(last.crs, "EPSG:32632", *last.bounds)
        values = np.flip(last.read(), 1).copy()
    profile = {
        "driver": "GTiff", "height": values.shape[1], "width": values.shape[2], "count": 3, "dtype": "uint8",
        "nodata": 0, "crs": "EPSG:32632", "transform": Affine(11, 0, box[0] - 100, 0, -11, box[3] + 700),
    }  # fmt: skip
    with rasterio.open(folder / "part_z.tif", "w", **profile) as target:
        target.write(values)
        target.descriptions = BANDS
    return folder


def scene_settings(folder, model, output, **groups) -> dict:
    document = settings("", model, output, **groups)
    document["source"] = {"urls": [f"{folder}/*.tif"]} | groups.get("source", {})
    return document


def run(folder, model, output, **groups) -> dict:
    return segment(RunConfig.model_validate(scene_settings(folder, model, output, **groups)))


@pytest.fixture(scope="module")
def undisturbed(mixed, model, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    report = run(mixed, model, output)
    assert report["status"] == "complete"
    return output


def test_scenes_that_tile_a_raster_are_that_raster(parts, landscape, model, tmp_path):
    run(parts, model, tmp_path / "scenes.zarr")
    segment(RunConfig.model_validate(settings(landscape, model, tmp_path / "one.zarr")))
    assert array_objects(tmp_path / "scenes.zarr") == array_objects(tmp_path / "one.zarr")


def test_block_size_changes_no_byte(mixed, model, undisturbed, tmp_path):
    run(mixed, model, tmp_path / "out.zarr", block={"size_px": 4096})
    assert array_objects(tmp_path / "out.zarr") == array_objects(undisturbed)


def test_the_mosaic_and_its_page_know_every_scene(undisturbed, mixed):
    mosaic = Mosaic.open(str(undisturbed))
    sources = mosaic.layout.attributes["sources"]
    assert [Path(source["url"]).name for source in sources] == sorted(
        path.name for path in mixed.glob("*.tif")
    )
    assert all(source["size_bytes"] for source in sources)
    with rasterio.open(mixed / "part0.tif") as first:
        place = ~first.transform @ mosaic.grid.transform
    assert np.allclose([place.a, place.b, place.d, place.e], [1, 0, 0, 1])
    assert np.allclose([place.c, place.f], np.round([place.c, place.f]), atol=1e-6)
    page = Path(f"{undisturbed}.run") / "report.html"
    assert "many scenes" in page.read_text()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(mixed, model, undisturbed, tmp_path):
    output = tmp_path / "out.zarr"
    kill_after_a_block(job_of(tmp_path, scene_settings(mixed, model, output)), output)
    assert 0 < len(ledger_records(output)) <= 3
    report = run(mixed, model, output)
    assert report["status"] == "complete"
    assert report["blocks"]["skipped"] > 0
    assert array_objects(output) == array_objects(undisturbed)


def test_another_scene_is_another_run(mixed, model, undisturbed):
    config = scene_settings(mixed, model, undisturbed, source={"order": "given", "composite": "median"})
    with pytest.raises(MismatchError, match=r"source\.(composite|cell_px)"):
        segment(RunConfig.model_validate(config))
    fewer = scene_settings(mixed, model, undisturbed, source={"urls": [f"{mixed}/part[01].tif"]})
    with pytest.raises(MismatchError, match=r"source\.files"):
        segment(RunConfig.model_validate(fewer))


def test_a_scene_that_vanishes_fails_its_blocks_by_name_and_no_others(parts, model, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.segment.executor.RETRY_DELAY_S", 0.01)
    folder, output = tmp_path / "scenes", tmp_path / "out.zarr"
    folder.mkdir()
    for part in parts.glob("*.tif"):
        (folder / part.name).write_bytes(part.read_bytes())

    def vanish():
        """Once the run is planned, and before a worker reads."""
        while not (Path(f"{output}.run") / "plan.json").is_file():
            time.sleep(0.001)
        (folder / "part4.tif").rename(tmp_path / "gone.tif")

    thief = threading.Thread(target=vanish)
    thief.start()
    report = run(folder, model, output)
    thief.join()
    assert report["status"] == "incomplete"
    assert report["blocks"]["done"] == 1
    assert report["blocks"]["failed"] == 2
    stored = (Path(f"{output}.run") / "report.json").read_text()
    assert "part4.tif; there is no such file" in stored
    (tmp_path / "gone.tif").rename(folder / "part4.tif")
    assert run(folder, model, output)["status"] == "complete"


def test_a_plan_counts_what_reading_takes(mixed, model, tmp_path):
    def pixels_bytes(**source):
        config = RunConfig.model_validate(scene_settings(mixed, model, tmp_path / "o.zarr", source=source))
        return plan_only(config)["memory_per_worker"]["pixels_bytes"]

    one = plan_only(RunConfig.model_validate(settings(mixed / "part0.tif", model, tmp_path / "o.zarr")))
    assert pixels_bytes() > one["memory_per_worker"]["pixels_bytes"]
    coarse = pixels_bytes(grid={"resolution": 40})
    assert coarse > 0


def test_scale_from_metadata_of_one_raster_and_of_scenes(model, tmp_path):
    path = write_scene(tmp_path / "a.tif", 300, 300)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.5, 0.25, 2.0), (0.0, 1.0, -3.0)

    def normalisation(**source):
        document = settings(path, model, tmp_path / "out.zarr")
        document["source"] |= source
        found = inspect(RunConfig.model_validate(document))
        return found.gain, found.bias

    np.testing.assert_allclose(normalisation()[0], [1 / std for std in STD])
    gain, bias = normalisation(scale="metadata")
    np.testing.assert_allclose(gain, np.divide([0.5, 0.25, 2.0], STD))
    np.testing.assert_allclose(bias, np.divide(np.subtract([0.0, 1.0, -3.0], MEAN), STD))
    # Scenes are scaled one by one while they are read: only the model's statistics are left to apply.
    gain, bias = normalisation(scale="metadata", grid={"resolution": 10})
    np.testing.assert_allclose(gain, np.divide(1.0, STD))
    np.testing.assert_allclose(bias, np.divide(np.negative(MEAN), STD))


@pytest.mark.slow
@pytest.mark.parametrize("composite", ["first", "median"])
def test_many_warped_scenes_keep_the_promise_of_memory(composite, model, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(1, 9000, (3, 1500, 1500)).astype(np.uint16)
    profile = {
        "driver": "GTiff", "height": 1500, "width": 1500, "count": 3, "dtype": "uint16", "nodata": 0,
        "crs": "EPSG:32632", "tiled": True, "blockxsize": 512, "blockysize": 512,
    }  # fmt: skip
    (tmp_path / "scenes").mkdir()
    for number in range(12):
        place = Affine(10, 0, 690_000 + 3_000 * (number % 4), 0, -10, 5_400_000 - 2_000 * (number // 4))
        with rasterio.open(tmp_path / "scenes" / f"{number}.tif", "w", **profile, transform=place) as target:
            target.write(values)
            target.descriptions = BANDS
    document = scene_settings(tmp_path / "scenes", model, tmp_path / "out.zarr")
    document |= {"crop": {}, "inference": {"compile": "off"}, "block": {"size_px": 2048}}
    document["source"] |= {"composite": composite, "grid": {"crs": "EPSG:32633", "resolution": 10}}
    done = run_job(job_of(tmp_path, document))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    promised = report["plan"]["memory_per_worker"]["total_bytes"]
    assert promised / 4 <= report["peak_rss_bytes"] <= promised


def test_from_a_bucket_by_pattern_and_with_its_index_there(
    mixed, model, undisturbed, s3_bucket, tmp_path, capsys
):
    upload(f"{s3_bucket.url}/scenes", mixed.glob("*.tif"))
    output = f"{s3_bucket.url}/mosaics/out.zarr"
    config = write_config(tmp_path / "run.yaml", scene_settings(f"{s3_bucket.url}/scenes", model, output))
    assert main(["--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"] == "complete"
    assert array_objects(output) == array_objects(undisturbed)


@pytest.mark.s3
@pytest.mark.usefixtures("ceph")
def test_on_a_real_server_with_ray_killed_and_resumed(mixed, model, undisturbed):
    bucket = make_bucket("scenes")
    upload(f"{bucket}/in", mixed.glob("*.tif"))
    upload(f"{bucket}/models/tiny", model.iterdir())
    output, compute = f"{bucket}/out.zarr", {"executor": "ray", "workers": 2, "threads_per_worker": 1}
    command = job_of(bucket, scene_settings(f"{bucket}/in", f"{bucket}/models/tiny", output, compute=compute))
    kill_after_a_block(command, output)
    done = run_job(command)
    assert done.returncode == 0, done.stderr
    assert array_objects(output) == array_objects(undisturbed)
