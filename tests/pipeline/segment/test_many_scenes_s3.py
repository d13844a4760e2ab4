"""Four hundred scenes in two UTM zones as one run: few files open, memory bounded, resumed on S3."""

import json
import threading
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine

from pipeline.config import RunConfig
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.scenes.scene_source import MOST_IDLE_FILES
from pipeline.segment.run import segment
from tests.pipeline.segment.processes import job_of, kill_after_a_block, make_bucket, run_job, upload
from tests.pipeline.segment.scene import BANDS, array_objects, ledger_records, settings

pytestmark = [pytest.mark.s3, pytest.mark.slow]

SIDE, OVERLAP, PIXEL_M = 120, 20, 100
ROWS, COLS = 20, 10
CORNERS = {"EPSG:32633": (250_000, 5_450_000), "EPSG:32632": (600_000, 5_450_000)}  # neighbours that overlap


def ground(crs, transform):
    """Bands as blotches on the ground, the same whichever zone shows them."""
    rows, cols = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    to_lon_lat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    lon, lat = to_lon_lat.transform(*(transform @ (cols, rows)))
    waves = [np.sin(lon * (60 + 9 * band)) * np.cos(lat * (80 - 7 * band)) for band in range(len(BANDS))]
    return (100 + 60 * np.stack(waves)).astype(np.uint8)


@pytest.fixture(scope="module")
def model(light_model) -> Path:
    return light_model


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder, step = tmp_path_factory.mktemp("scenes"), (SIDE - OVERLAP) * PIXEL_M
    for crs, (left, top) in CORNERS.items():
        for row, col in np.ndindex(ROWS, COLS):
            place = Affine(PIXEL_M, 0, left + col * step, 0, -PIXEL_M, top - row * step)
            profile = {
                "driver": "GTiff", "height": SIDE, "width": SIDE, "count": len(BANDS), "dtype": "uint8",
                "crs": crs, "transform": place, "nodata": 0,
            }  # fmt: skip
            with rasterio.open(folder / f"{crs[-2:]}_{row:02d}_{col:02d}.tif", "w", **profile) as target:
                target.write(ground(crs, place))
                target.descriptions = BANDS
    return folder


def run_settings(folder, model, output, **groups):
    document = settings("", model, output, **groups)
    document["source"] = {"urls": [f"{folder}/*.tif"], "grid": {"crs": "EPSG:32633", "resolution": PIXEL_M}}
    return document


class Watch:
    """The most scene files that this process has had open at once, looked at again and again."""

    def __init__(self) -> None:
        self.most_open = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            links = []
            for descriptor in Path("/proc/self/fd").iterdir():
                try:
                    links.append(str(descriptor.readlink()))
                except OSError:  # closed meanwhile
                    continue
            self.most_open = max(self.most_open, sum(link.endswith(".tif") for link in links))


@pytest.fixture(scope="module")
def undisturbed(scenes, model, tmp_path_factory) -> Path:
    """The same on this machine's disk, in one process, while its open files are watched."""
    output = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    with Watch() as watch:
        report = segment(RunConfig.model_validate(run_settings(scenes, model, output)))
    assert report["status"] == "complete"
    assert report["blocks"]["total"] >= 6
    assert 0 < watch.most_open <= MOST_IDLE_FILES + 8
    return output


def test_every_class_and_both_zones_are_seen(undisturbed):
    mosaic = Mosaic.open(str(undisturbed))
    classes = mosaic.classes()
    assert set(np.unique(classes)) == {0, 1, 2, 255}, "one class would hide faults"
    for crs, (left, top) in CORNERS.items():
        middle = (left + COLS * (SIDE - OVERLAP) * PIXEL_M / 2, top - ROWS * (SIDE - OVERLAP) * PIXEL_M / 2)
        there = pyproj.Transformer.from_crs(crs, "EPSG:32633", always_xy=True).transform(*middle)
        col, row = (int(place) for place in ~mosaic.grid.transform @ there)
        assert (classes[row - 50 : row + 50, col - 50 : col + 50] != 255).all()


@pytest.mark.usefixtures("ceph")
def test_killed_on_a_real_server_it_goes_on_within_its_memory(scenes, model, undisturbed):
    bucket = make_bucket("many")
    upload(f"{bucket}/in", scenes.glob("*.tif"))
    upload(f"{bucket}/model", model.iterdir())
    output, compute = f"{bucket}/out.zarr", {"executor": "ray", "workers": 2, "threads_per_worker": 1}
    command = job_of(bucket, run_settings(f"{bucket}/in", f"{bucket}/model", output, compute=compute))
    kill_after_a_block(command, output)
    done = run_job(command)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["blocks"]["skipped"] > 0
    assert report["blocks"]["total"] == len(ledger_records(undisturbed))
    assert report["peak_rss_bytes"] <= report["plan"]["memory_per_worker"]["total_bytes"]
    assert array_objects(output) == array_objects(undisturbed)
