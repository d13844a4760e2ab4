"""The memory that the plan promises is the memory that a worker takes, whatever the raster's size."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from deeplab_core import ModelConfig, build_model, save_checkpoint
from tests.pipeline.segment.scene import ledger_records, write_config

REPOSITORY = Path(__file__).resolve().parents[3]
BANDS = ("red", "green", "blue")
LONGEST_S = 2400
"""Of one run, on a machine that others use too."""


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """The smallest network that is a real one: pixels, not multiply-adds, are the subject here."""
    torch.manual_seed(0)
    config = ModelConfig(
        arch="deeplabv3", backbone="timm/mobilenetv3_small_050", classes=["a", "b", "c", "d"], bands=BANDS
    )
    path = tmp_path_factory.mktemp("tiny") / "checkpoint"
    save_checkpoint(build_model(config), path, mean=[100.0] * 3, std=[50.0] * 3, bands=BANDS)
    return path


def write_raster(path: Path, side: int, *, dense: bool) -> Path:
    """Random pixels everywhere, or a few patches in a file that is mostly absent."""
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "nodata": 0,
        "tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True, "crs": "EPSG:32633",
        "transform": Affine(10, 0, 500000, 0, -10, 5400000), "BIGTIFF": "YES",
    }  # fmt: skip
    patch = rng.integers(1, 255, (3, 512, 512)).astype(np.uint8)
    with rasterio.open(path, "w", **profile) as target:
        step = 512 if dense else side // 4
        for row in range(0, side - 511, step):
            for col in range(0, side - 511, step):
                target.write(patch, window=((row, row + 512), (col, col + 512)))
    return path


def run(source: Path, model: Path, folder: Path, block_px: int) -> dict:
    document = {
        "source": {"urls": [str(source)]},
        "model": {"url": str(model)},
        "inference": {"compile": "off"},
        "block": {"size_px": block_px},
        "output": {"url": str(folder / f"{source.stem}.zarr")},
        "compute": {"executor": "local"},
    }
    config = write_config(folder / "run.yaml", document)
    done = subprocess.run(
        [sys.executable, "jobs/segment_region.py", "--config", str(config), "--json"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=LONGEST_S, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(2 * LONGEST_S)
def test_a_dense_raster_keeps_the_promise_and_stays_flat(tiny_model, tmp_path):
    peaks = []
    for side in (10_000, 20_000):
        source = write_raster(tmp_path / f"dense{side}.tif", side, dense=True)
        report = run(source, tiny_model, tmp_path, 2048)
        assert report["status"] == "complete"
        promised = report["plan"]["memory_per_worker"]["total_bytes"]
        assert report["peak_rss_bytes"] <= promised
        assert report["peak_rss_bytes"] >= promised / 4, "a promise so loose that it says nothing"
        source.unlink()
        records = ledger_records(tmp_path / f"{source.stem}.zarr")
        peaks.append(max(record["peak_rss_bytes"] for record in records.values()))
    assert peaks[1] <= 1.1 * peaks[0], "a worker's memory grew with the raster"


@pytest.mark.slow
def test_a_sparse_raster_of_forty_thousand_keeps_the_promise(tiny_model, tmp_path):
    source = write_raster(tmp_path / "sparse.tif", 40_000, dense=False)
    report = run(source, tiny_model, tmp_path, 4096)
    assert report["status"] == "complete"
    assert report["blocks"]["total"] == 100
    assert report["blocks"]["empty"] > report["blocks"]["done"] > 0
    assert report["peak_rss_bytes"] <= report["plan"]["memory_per_worker"]["total_bytes"]
