"""Nights in a bucket: quickly on moto; killed and overlapping processes on files and on a real S3 server."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from jobs.audit import main as audit_job
from jobs.export_cog import main as export_job
from pipeline.config import RunConfig
from pipeline.errors import MismatchError
from pipeline.latest import Pointer, read_pointer, switch_pointer
from pipeline.raster.gdal_source import find_raster
from pipeline.raster.window import Window
from pipeline.segment import run
from pipeline.storage import Folder
from tests.pipeline.segment.nights import Product, computed, scene_bytes
from tests.pipeline.segment.processes import REPOSITORY, make_bucket, upload
from tests.pipeline.segment.scene import array_objects

KILLED_BEFORE_PUBLISHING = """
import os, signal, sys
from jobs.segment_region import main
from pipeline.raster.gdal_source import find_raster
from pipeline.raster.window import Window
from pipeline.segment import run
run.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_a_replaced_scene_is_read_anew_by_the_same_process(s3_bucket):
    """GDAL would give what it kept of the old file, to be recorded as the new one's."""
    folder = Folder(f"{s3_bucket.url}/scenes")

    def read():
        source = find_raster(f"{folder.url}/one.tif").spec((1, 2, 3)).open()
        try:
            return source.read(Window(0, 0, 64, 120)).samples_CHW
        finally:
            source.close()

    for seed in (1, 2):
        folder.write("one.tif", scene_bytes(0, seed))
        with rasterio.MemoryFile(scene_bytes(0, seed)) as memory, memory.open() as expected:
            assert np.array_equal(read(), expected.read())


@pytest.fixture(params=["moto", pytest.param("ceph", marks=pytest.mark.s3)])
def root(request) -> str:
    """An empty bucket, on the quick server or on the real one."""
    if request.param == "moto":
        return request.getfixturevalue("s3_bucket").url
    request.getfixturevalue("ceph")
    return make_bucket("nights")


def test_nights_in_a_bucket(root, model, other_model, tmp_path, capsys):
    upload(f"{root}/models/one", model.iterdir())
    upload(f"{root}/models/other", other_model.iterdir())
    product = Product(root, f"{root}/models/one")
    first, unchanged = product.night(), product.night()
    product.put("bottom.tif", seed=30)
    second = product.night(incremental={"change_layer": True})
    third = product.night(model={"url": f"{root}/models/other"}, incremental={"keep": 2})

    assert [computed(night) for night in (first, unchanged, second, third)] == [3, 0, 2, 3]
    assert second["incremental"]["copied"] == 1
    assert second["incremental"]["changes"]["pixels_changed"] > 0, "the old scene was read again"
    assert third["incremental"]["reasons"] == {"model": 3}
    versions = [night["incremental"]["version"] for night in (first, second, third)]
    assert third["incremental"]["pruned"] == versions[:1]
    assert product.versions() == set(versions[1:])
    latest = product.latest()
    assert [latest["previous"], latest["version"]] == versions[1:]

    pointer = f"{root}/product/latest.json"
    assert audit_job(["--mosaic", pointer]) == 0
    assert "whole" in capsys.readouterr().out
    assert export_job(["--mosaic", pointer, "--output", str(tmp_path / "classes.tif")]) == 0
    assert (tmp_path / "classes.tif").stat().st_size > 0


def test_who_was_overtaken_leaves_latest_json_alone(s3_bucket, model, monkeypatch):
    """Another version is published while this one is written: readers keep that one, and the run says so."""
    product = Product(s3_bucket.url, str(model))
    other = Pointer("v-of-another-run", "s3://elsewhere", "run", "2026-11-21T03:00:00+00:00", None)
    finished = run.make_report

    def meanwhile(*arguments, **named):
        assert switch_pointer(product.folder, other, None)
        return finished(*arguments, **named)

    monkeypatch.setattr(run, "make_report", meanwhile)
    with pytest.raises(MismatchError, match=r"switched to v-of-another-run while v-[0-9a-f]{16} was written"):
        product.night()
    published = read_pointer(product.folder)
    assert published is not None
    assert published.pointer == other


def test_a_store_that_repeats_a_request_does_not_refuse_its_own_pointer(s3_bucket, model, monkeypatch):
    """The first answer was lost, the repeated request finds the pointer there already: it was us."""
    from pipeline.segment.nightly import publish

    product = Product(s3_bucket.url, str(model))

    def answered_twice(*arguments):
        assert switch_pointer(*arguments)
        return switch_pointer(*arguments)

    monkeypatch.setattr(publish, "switch_pointer", answered_twice)
    assert product.night()["incremental"]["published"]


@pytest.fixture(
    params=[pytest.param("files", marks=pytest.mark.slow), pytest.param("server", marks=pytest.mark.s3)]
)
def place(request, tmp_path) -> str:
    if request.param == "files":
        return str(tmp_path)
    request.getfixturevalue("ceph")
    return make_bucket(f"b{abs(hash(request.node.name)) % 10**9}")


def job(product: Product, config: Path, *command: str) -> subprocess.Popen[str]:
    config.write_text(yaml.safe_dump(product.document()))
    return subprocess.Popen(
        [sys.executable, *command, "--config", str(config), "--json"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_killed_before_publishing_readers_keep_the_old_version(place, model, tmp_path):
    product = Product(place, str(model))
    product.night()
    earlier = product.latest()
    product.put("bottom.tif", seed=30)
    killed = job(product, tmp_path / "night.yaml", "-c", KILLED_BEFORE_PUBLISHING)
    _, said = killed.communicate(timeout=300)
    assert killed.returncode == -9, said
    assert product.latest() == earlier
    assert len(product.versions()) == 2
    report = product.night()
    assert computed(report) == 0, "what the killed attempt finished is finished"
    assert report["incremental"]["published"]
    assert report["incremental"]["recomputed"] == 2
    assert product.latest()["previous"] == earlier["version"]
    product.night(product="scratch")
    assert array_objects(product.latest()["url"]) == array_objects(product.latest("scratch")["url"])


@pytest.mark.parametrize("which", ["first", "later"])
def test_two_attempts_at_once_write_one_version_and_one_publishes(which, place, model, tmp_path):
    """A RayJob that was retried while its first attempt still lived."""
    product = Product(place, str(model))
    if which == "later":
        product.night()
        product.put("bottom.tif", seed=30)
    attempts = [job(product, tmp_path / f"{number}.yaml", "jobs/segment_region.py") for number in range(2)]
    reports = []
    for attempt in attempts:
        out, said = attempt.communicate(timeout=400)
        assert attempt.returncode == 0, said
        reports.append(json.loads(out.splitlines()[-1]))
    assert {report["incremental"]["version"] for report in reports} == {product.latest()["version"]}
    assert sum(report["incremental"].get("published", False) for report in reports) == 1
    assert len(product.versions()) == (1 if which == "first" else 2)
    product.night(product="scratch")
    assert array_objects(product.latest()["url"]) == array_objects(product.latest("scratch")["url"])
    again = run.segment(RunConfig.model_validate(product.document()))
    assert again["incremental"]["unchanged"]
    assert again["audit"]["faults"] == []
