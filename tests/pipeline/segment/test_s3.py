"""Whole runs from and to a bucket: quickly on moto, and on a real S3 server that loses power."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
import rasterio
import yaml

from jobs.segment_region import main
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.raster.mosaic import Mosaic
from pipeline.segment.run import segment
from pipeline.storage import Folder
from tests.pipeline.segment.scene import array_objects, settings, write_scene

REPOSITORY = Path(__file__).resolve().parents[3]
CEPH = REPOSITORY.parent / "shared" / "tools" / "ceph-s3"


@pytest.fixture(scope="module")
def undisturbed(scene, model, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    segment(RunConfig.model_validate(settings(scene, model, output)))
    return output


@pytest.fixture(scope="module")
def ceph(tmp_path_factory):
    """A one-node Ceph with its RADOS gateway, as plain processes."""
    if not CEPH.is_file():
        pytest.skip(f"no real S3 server: {CEPH} is absent")
    folder = str(tmp_path_factory.mktemp("ceph"))
    started = subprocess.run(["bash", CEPH, "up", folder], capture_output=True, text=True, check=False)
    if started.returncode:
        pytest.skip(f"no real S3 server: {started.stderr.strip()[-300:]}")
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for line in started.stdout.splitlines():
        for assignment in line.split("#")[0].removeprefix("export ").split():
            patch.setenv(*assignment.split("=", 1))
    storage._open_store.cache_clear()
    yield folder
    subprocess.run(["bash", CEPH, "down", folder], check=False, capture_output=True)
    patch.undo()
    storage._open_store.cache_clear()


def upload(bucket: str, scene: Path, model: Path) -> None:
    for file in [scene, *Path(model).iterdir()]:
        folder = "models/tiny" if file.parent == Path(model) else "scenes"
        Folder(f"{bucket}/{folder}").write(file.name, file.read_bytes())


def bucket_settings(bucket: str, **compute) -> dict:
    document = settings("", "", "", compute=compute)
    document["source"]["urls"] = [f"{bucket}/scenes/scene.tif"]
    document["model"]["url"] = f"{bucket}/models/tiny"
    document["output"]["url"] = f"{bucket}/mosaics/out.zarr"
    return document


def stored_arrays(bucket: str) -> dict[str, bytes]:
    folder = Folder(f"{bucket}/mosaics/out.zarr")
    keys = [found.key for found in folder.listing() if not found.key.endswith("zarr.json")]
    return {key: folder.read(key) for key in sorted(keys)}


def make_bucket() -> str:
    boto3.client("s3").create_bucket(Bucket="tests")
    return "s3://tests"


def test_from_and_to_a_bucket_with_its_config_there_too(s3_bucket, scene, model, undisturbed, capsys):
    upload(s3_bucket.url, scene, model)
    config = yaml.safe_dump(bucket_settings(s3_bucket.url)).encode()
    Folder(s3_bucket.url).write("run.yaml", config)
    assert main(["--config", f"{s3_bucket.url}/run.yaml", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["output"] == f"{s3_bucket.url}/mosaics/out.zarr"
    assert stored_arrays(s3_bucket.url) == array_objects(undisturbed)
    mosaic = Mosaic.open(report["output"])
    with rasterio.open(scene) as source:
        assert mosaic.grid.transform == source.transform
    everything = b"".join(
        Folder(f"{s3_bucket.url}/mosaics").read(found.key)
        for found in Folder(f"{s3_bucket.url}/mosaics").listing()
    )
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in everything
    assert main(["--config", f"{s3_bucket.url}/run.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["blocks"]["skipped"] == 4


@pytest.mark.s3
@pytest.mark.usefixtures("ceph")
def test_on_a_real_server_with_ray(scene, model, undisturbed):
    bucket = make_bucket()
    upload(bucket, scene, model)
    document = bucket_settings(bucket, executor="ray", workers=2, threads_per_worker=1)
    Folder(bucket).write("run.yaml", yaml.safe_dump(document).encode())
    done = subprocess.run(
        [sys.executable, "jobs/segment_region.py", "--config", f"{bucket}/run.yaml", "--json"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert stored_arrays(bucket) == array_objects(undisturbed)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr


@pytest.mark.s3
@pytest.mark.chaos
def test_a_server_that_loses_power_costs_no_block(ceph, model, tmp_path):
    bucket = make_bucket()
    scene = write_scene(tmp_path / "scene.tif", 2100, 2100)
    segment(RunConfig.model_validate(settings(scene, model, tmp_path / "quiet.zarr")))
    upload(bucket, scene, model)
    Folder(f"{bucket}/mosaics").delete_all()
    Folder(bucket).write("run.yaml", yaml.safe_dump(bucket_settings(bucket)).encode())
    command = [sys.executable, "jobs/segment_region.py", "--config", f"{bucket}/run.yaml", "--json"]
    job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    ledger = Folder(f"{bucket}/mosaics/out.zarr.run")
    while not any(ledger.listing("blocks/")):
        time.sleep(0.5)
    subprocess.run(["bash", CEPH, "kill", ceph], check=True, capture_output=True)
    subprocess.run(["bash", CEPH, "start", ceph], check=True, capture_output=True)
    job.communicate(timeout=500)
    if job.returncode:  # gave up while the power was off: then it goes on where it stood
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=500)
    assert stored_arrays(bucket) == array_objects(tmp_path / "quiet.zarr")
