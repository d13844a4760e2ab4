"""Four hundred scenes in two UTM zones as one run: few files open, memory bounded, resumed on S3."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import numpy as np
import pyproj
import pytest
import rasterio
import yaml
from affine import Affine

from pipeline.config import RunConfig
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.scenes.scene_source import MOST_IDLE_FILES
from pipeline.segment.run import segment
from pipeline.storage import Folder
from tests.pipeline.segment.scene import BANDS, array_objects, ledger_records, settings

pytestmark = [pytest.mark.s3, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[3]
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
    boto3.client("s3").create_bucket(Bucket="many")
    bucket = "s3://many"
    for file in [*scenes.glob("*.tif"), *Path(model).iterdir()]:
        Folder(f"{bucket}/{'in' if file.suffix == '.tif' else 'model'}").write(file.name, file.read_bytes())
    compute = {"executor": "ray", "workers": 2, "threads_per_worker": 1}
    document = run_settings(f"{bucket}/in", f"{bucket}/model", f"{bucket}/out.zarr", compute=compute)
    Folder(bucket).write("run.yaml", yaml.safe_dump(document).encode())
    command = [sys.executable, "jobs/segment_region.py", "--config", f"{bucket}/run.yaml", "--json"]
    job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any(Folder(f"{bucket}/out.zarr.run").listing("blocks/")):
        assert job.poll() is None
        time.sleep(0.1)
    job.send_signal(signal.SIGKILL)
    job.wait()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["blocks"]["skipped"] > 0
    assert report["blocks"]["total"] == len(ledger_records(undisturbed))
    assert report["peak_rss_bytes"] <= report["plan"]["memory_per_worker"]["total_bytes"]
    stored = Folder(f"{bucket}/out.zarr")
    keys = [found.key for found in stored.listing() if not found.key.endswith("zarr.json")]
    assert {key: stored.read(key) for key in keys} == array_objects(undisturbed)
