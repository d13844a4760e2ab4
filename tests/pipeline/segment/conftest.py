"""One scene and three models for all whole runs, and a real S3 server for those that need one."""

import os
import subprocess
from pathlib import Path

import pytest

from pipeline import storage
from tests.pipeline.segment.scene import write_light_model, write_model, write_scene

CEPH = Path(__file__).resolve().parents[4] / "shared" / "tools" / "ceph-s3"


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "checkpoint")


@pytest.fixture(scope="session")
def light_model(tmp_path_factory) -> Path:
    return write_light_model(tmp_path_factory.mktemp("light") / "checkpoint")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("other") / "checkpoint", seed=1)


@pytest.fixture(scope="session")
def scene(tmp_path_factory) -> Path:
    """2 × 2 blocks of 1024 px, the last ones ragged."""
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", 1301, 1187)


@pytest.fixture(scope="module")
def ceph(tmp_path_factory):
    """A one-node Ceph with its RADOS gateway, as plain processes; ``AWS_*`` variables lead there."""
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
