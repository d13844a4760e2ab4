"""Two runs at one output: who started over has it, and the other ends without a trace."""

import threading
import time

import pytest

from pipeline.config import RunConfig
from pipeline.errors import MismatchError
from pipeline.raster.mosaic import create_mosaic
from pipeline.segment.audit import audit_stored
from pipeline.segment.ledger import Ledger
from pipeline.segment.machine import this_machine
from pipeline.segment.planned import make_planned_run, plan_document
from pipeline.segment.run import segment
from pipeline.segment.worker import BlockWorker
from tests.pipeline.segment.scene import array_objects, ledger_records, settings, write_scene


@pytest.fixture(scope="module")
def strip(tmp_path_factory):
    """Four blocks in a row, quickly done."""
    return write_scene(tmp_path_factory.mktemp("strip") / "scene.tif", 100, 4000, holes=False)


def config(strip, model, output, **groups):
    return RunConfig.model_validate(settings(strip, model, output, **groups))


def test_a_worker_of_a_run_that_was_started_over_writes_nothing_more(strip, light_model, tmp_path):
    planned = make_planned_run(config(strip, light_model, tmp_path / "out.zarr"), this_machine())
    planned.ledger.begin(plan_document(planned))
    create_mosaic(planned.output, planned.layout)
    first, second, *_ = (block.id for block in planned.plan.tasks())
    worker = BlockWorker(planned.spec)
    try:
        worker(first)
        other = config(strip, light_model, tmp_path / "out.zarr", blend={"window": "flat"})
        segment(other, overwrite=True)
        before = array_objects(tmp_path / "out.zarr"), ledger_records(tmp_path / "out.zarr")
        with pytest.raises(MismatchError, match="another run"):
            worker(second)
    finally:
        worker.close()
    assert (array_objects(tmp_path / "out.zarr"), ledger_records(tmp_path / "out.zarr")) == before


def test_a_run_that_was_started_over_ends_and_the_new_one_is_whole(light_model, tmp_path):
    long = write_scene(tmp_path / "long.tif", 100, 16_000, holes=False)
    old = config(long, light_model, tmp_path / "out.zarr", inference={"flips": "d4"})  # eight times as slow
    new = config(long, light_model, tmp_path / "out.zarr")
    refused = []

    def run_old():
        try:
            segment(old)
        except MismatchError as error:
            refused.append(str(error))

    thread = threading.Thread(target=run_old)
    thread.start()
    ledger = Ledger.beside(str(tmp_path / "out.zarr"))
    deadline = time.monotonic() + 60
    while not ledger.finished():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    report = segment(new, overwrite=True)
    thread.join()
    assert report["status"] == "complete"
    assert audit_stored(str(tmp_path / "out.zarr")).is_complete
    segment(config(long, light_model, tmp_path / "quiet.zarr"))
    assert array_objects(tmp_path / "out.zarr") == array_objects(tmp_path / "quiet.zarr")
    assert len(refused) == 1
    assert "started over" in refused[0]


def test_two_runs_of_the_same_at_the_same_time_are_one_mosaic(strip, light_model, tmp_path):
    reports = []
    threads = [
        threading.Thread(
            target=lambda: reports.append(segment(config(strip, light_model, tmp_path / "out.zarr")))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report["status"] for report in reports] == ["complete", "complete"]
    segment(config(strip, light_model, tmp_path / "quiet.zarr"))
    assert array_objects(tmp_path / "out.zarr") == array_objects(tmp_path / "quiet.zarr")
