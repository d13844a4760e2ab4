"""Whole runs from and to a bucket: quickly on moto, and on a real S3 server that loses power."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
import rasterio

from jobs.segment_region import main
from pipeline.config import RunConfig
from pipeline.raster.mosaic import Mosaic
from pipeline.segment.run import segment
from pipeline.storage import Folder
from tests.pipeline.segment.processes import REPOSITORY, job_of, make_bucket, run_job, upload
from tests.pipeline.segment.scene import array_objects, settings, write_scene


def uploaded(bucket: str, scene: Path, model: Path, **compute) -> dict:
    """Settings of a run from and to a bucket that now holds what it needs."""
    upload(f"{bucket}/scenes", [scene])
    upload(f"{bucket}/models/tiny", model.iterdir())
    places = f"{bucket}/scenes/{scene.name}", f"{bucket}/models/tiny", f"{bucket}/mosaics/out.zarr"
    return settings(*places, compute=compute)


def test_from_and_to_a_bucket_with_its_config_there_too(s3_bucket, scene, model, undisturbed, capsys):
    _, _, *arguments = job_of(s3_bucket.url, uploaded(s3_bucket.url, scene, model))
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["output"] == f"{s3_bucket.url}/mosaics/out.zarr"
    assert array_objects(report["output"]) == array_objects(undisturbed)
    mosaic = Mosaic.open(report["output"])
    with rasterio.open(scene) as source:
        assert mosaic.grid.transform == source.transform
    everything = b"".join(
        Folder(f"{s3_bucket.url}/mosaics").read(found.key)
        for found in Folder(f"{s3_bucket.url}/mosaics").listing()
    )
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in everything
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["blocks"]["skipped"] == 4


@pytest.mark.s3
@pytest.mark.usefixtures("ceph")
def test_on_a_real_server_with_ray(scene, model, undisturbed):
    bucket = make_bucket("tests")
    compute = {"executor": "ray", "workers": 2, "threads_per_worker": 1}
    done = run_job(job_of(bucket, uploaded(bucket, scene, model, **compute)))
    assert done.returncode == 0, done.stderr
    assert array_objects(f"{bucket}/mosaics/out.zarr") == array_objects(undisturbed)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr


@pytest.mark.s3
@pytest.mark.chaos
def test_a_server_that_loses_power_costs_no_block(ceph, model, tmp_path):
    bucket = make_bucket("power")
    scene = write_scene(tmp_path / "scene.tif", 2100, 2100)
    segment(RunConfig.model_validate(settings(scene, model, tmp_path / "quiet.zarr")))
    command = job_of(bucket, uploaded(bucket, scene, model))
    job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    ledger = Folder(f"{bucket}/mosaics/out.zarr.run")
    while not any(ledger.listing("blocks/")):
        assert job.poll() is None
        time.sleep(0.5)
    ceph.lose_power()
    job.communicate(timeout=500)
    if job.returncode:  # gave up while the power was off: then it goes on where it stood
        again = run_job(command)
        assert again.returncode == 0, again.stderr
    assert array_objects(f"{bucket}/mosaics/out.zarr") == array_objects(tmp_path / "quiet.zarr")
