"""A disk that is full ends a run with a sentence; with more room it goes on to the same bytes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.segment.run import segment
from tests.pipeline.segment.scene import array_objects, settings, write_config, write_scene

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]
BLOCK_BYTES = 4096
"""What a file takes at least."""

SCRIPT = """
set -e
mount -t tmpfs -o size={small} tmpfs {disk}
set +e
{job} 2> {folder}/full.txt; echo $? > {folder}/full
mount -o remount,size={large} {disk}
{job} 2> {folder}/more.txt; echo $? > {folder}/more
cp -r {disk}/out.zarr {folder}/out.zarr
"""


def disk_bytes(*folders: Path) -> int:
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return sum(-(-file.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES for file in files)


def test_a_full_disk_costs_nothing_that_was_finished(light_model, tmp_path):
    can_mount = (
        shutil.which("unshare")
        and not subprocess.run(
            ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)],
            check=False,
            capture_output=True,
        ).returncode
    )
    if not can_mount:
        pytest.skip("a small disk cannot be mounted here: unshare -Urm is not allowed")
    scene = write_scene(tmp_path / "scene.tif", 400, 6000, holes=False)
    quiet, disk = tmp_path / "quiet.zarr", tmp_path / "disk"
    disk.mkdir()
    segment(RunConfig.model_validate(settings(scene, light_model, quiet)))
    needed = disk_bytes(quiet, Path(f"{quiet}.run"))
    config = write_config(tmp_path / "run.yaml", settings(scene, light_model, disk / "out.zarr"))
    script = SCRIPT.format(
        small=needed // 2, large=4 * needed, disk=disk, folder=tmp_path,
        job=f"{sys.executable} jobs/segment_region.py --config {config}",
    )  # fmt: skip
    subprocess.run(["unshare", "-Urm", "bash", "-c", script], cwd=REPOSITORY, check=True, timeout=400)
    told = (tmp_path / "full.txt").read_text()
    assert (tmp_path / "full").read_text().strip() in ("2", "3"), told  # 2: before any block
    assert "No space left on device" in told.splitlines()[-1]
    assert "Traceback" not in told
    assert (tmp_path / "more").read_text().strip() == "0", (tmp_path / "more.txt").read_text()
    assert array_objects(tmp_path / "out.zarr") == array_objects(quiet)
