"""Whole runs over stacks: each plane as if it were alone, resumed, audited, counted."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import RunConfig
from pipeline.errors import MismatchError, SettingsError
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.plane import Plane, planes
from pipeline.raster.region import Region
from pipeline.raster.window import Window
from pipeline.segment.audit import audit_stored
from pipeline.segment.cost import Numbers, plan_bytes
from pipeline.segment.lattice import Lattice
from pipeline.segment.ledger import Ledger
from pipeline.segment.overviews import factors, tasks
from pipeline.segment.plan import Block, Plan
from pipeline.segment.run import plan_only, segment
from tests.pipeline.raster.zarrs import smooth, write_ome
from tests.pipeline.segment.scene import BANDS, array_objects, ledger_records, settings

HEIGHT, WIDTH = 115, 1090
"""Two blocks a plane."""

SHAPE = (2, 2)


@pytest.fixture(scope="module")
def model(light_model) -> Path:
    return light_model


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    values = smooth((SHAPE[0], 3, SHAPE[1], HEIGHT, WIDTH))
    path = tmp_path_factory.mktemp("stack") / "stack.zarr"
    return write_ome(path, values, "tczyx", labels=BANDS, chunks=(1, 3, 1, 128, 256))


def run(source, model, output, /, **groups):
    return segment(RunConfig.model_validate(settings(source, model, output, **groups)))


@pytest.fixture(scope="module")
def undisturbed(stack, model, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    assert run(stack, model, output)["status"] == "complete"
    return output


@pytest.mark.parametrize("plane", [Plane(0, 1), Plane(1, 0)])
def test_every_plane_is_what_it_is_alone(plane, undisturbed, stack, model, tmp_path):
    run(stack, model, tmp_path / "alone.zarr", source={"t": plane.t, "z": plane.z})
    assert "planes" not in Mosaic.open(str(tmp_path / "alone.zarr")).attributes
    together, alone = array_objects(undisturbed), array_objects(tmp_path / "alone.zarr")
    here = f"/c/{plane.t}/{plane.z}/"
    assert {key.replace("/c/", here): data for key, data in alone.items() if is_of_planes(key)} == {
        key: data for key, data in together.items() if is_of_planes(key) and here in key
    }


def is_of_planes(key):
    return key.split("/c/")[0].rpartition("/")[2] in ("classes", "confidence", "logits")


def test_planes_differ(undisturbed):
    mosaic = Mosaic.open(str(undisturbed))
    pictures = {mosaic.classes(t=plane.t, z=plane.z).tobytes() for plane in planes(SHAPE)}
    assert len(pictures) == math.prod(SHAPE), "equal planes would hide faults"


def test_blocks_are_named_after_their_planes(undisturbed):
    records = ledger_records(undisturbed)
    assert sorted(records) == sorted(
        f"{plane.id}r00000c{col:05d}" for plane in planes(SHAPE) for col in (0, 1)
    )
    assert "t001z000r00000c00001" in records


def test_a_run_goes_on_where_it_stood(undisturbed, stack, model, tmp_path):
    output = tmp_path / "out.zarr"
    shutil.copytree(undisturbed, output)
    shutil.copytree(f"{undisturbed}.run", f"{output}.run")
    ledger = Ledger.beside(str(output))
    for name in ("t000z001r00000c00001", "t001z001r00000c00000"):
        for key in ledger_records(output)[name]["objects"]:
            (output / key).unlink()
        ledger.forget(name)
    report = run(stack, model, output)
    assert report["blocks"] == {"total": 8, "done": 2, "empty": 0, "failed": 0, "skipped": 6}
    assert array_objects(output) == array_objects(undisturbed)


@pytest.mark.slow
def test_rays_workers_write_the_same_planes(undisturbed, stack, model, tmp_path):
    compute = {"executor": "ray", "workers": 2, "threads_per_worker": 1}
    report = run(stack, model, tmp_path / "out.zarr", compute=compute)
    assert report["blocks"] == {"total": 8, "done": 8, "empty": 0, "failed": 0, "skipped": 0}
    assert len({record["worker"] for record in ledger_records(tmp_path / "out.zarr").values()}) == 2
    assert array_objects(tmp_path / "out.zarr") == array_objects(undisturbed)


def test_the_audit_finds_a_planes_fault(undisturbed, stack, model, tmp_path):
    output = tmp_path / "out.zarr"
    shutil.copytree(undisturbed, output)
    shutil.copytree(f"{undisturbed}.run", f"{output}.run")
    damaged = output / "classes" / "c" / "1" / "0" / "0" / "1"
    damaged.write_bytes(damaged.read_bytes()[:-3] + b"abc")
    stray = output / "confidence" / "c" / "0" / "7" / "0" / "0"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"x")
    found = audit_stored(str(output))
    assert list(found.damaged) == ["t001z000r00000c00001"]
    assert found.strays == ["confidence/c/0/7/0/0"]
    stray.unlink()
    assert run(stack, model, output)["status"] == "complete"
    assert array_objects(output) == array_objects(undisturbed)


def test_other_planes_are_another_run(undisturbed, stack, model):
    with pytest.raises(MismatchError, match=r"source\.z = \[0, 1\], now \[1\]"):
        run(stack, model, undisturbed, source={"z": 1})


def test_planes_that_are_not_there_are_refused(stack, model, tmp_path):
    with pytest.raises(SettingsError, match=r"source\.t must lie between 0 and 1, got 2"):
        run(stack, model, tmp_path / "out.zarr", source={"t": [0, 2]})


def test_the_plan_counts_planes(stack, model, tmp_path):
    def plan(output, **source):
        config = settings(stack, model, tmp_path / output, source=source)
        return plan_only(RunConfig.model_validate(config))

    one, all_of_them = plan("a.zarr", t=0, z=1), plan("b.zarr")
    assert "planes" not in one
    assert all_of_them["planes"] == {"t": 2, "z": 2}
    assert all_of_them["blocks"] == 4 * one["blocks"] == 8
    for name in ("unique", "computed"):
        assert all_of_them["crops"][name] == 4 * one["crops"][name]
    assert all_of_them["crops"]["largest_block"] == one["crops"]["largest_block"]
    for name in ("read_bytes", "read_at_least_bytes", "output_at_most_bytes", "multiply_adds"):
        assert all_of_them[name] == 4 * one[name]
    assert all_of_them["skipped"] == {"blocks_outside_region": 0}
    assert all_of_them["memory_per_worker"] == one["memory_per_worker"]


def test_the_report_shows_the_plane_in_the_middle(undisturbed):
    page = Path(f"{undisturbed}.run", "report.html").read_text()
    assert "Classes of plane t 1, z 1" in page
    assert "2 t × 2 z" in page
    assert "0.5 µm a pixel" in page
    assert page.count("<img") == 3, "the source has its picture too"
    report = json.loads(Path(f"{undisturbed}.run", "report.json").read_text())
    assert sum(report["class_pixels"]) == math.prod(SHAPE) * HEIGHT * WIDTH


def test_chosen_planes_of_a_region_are_the_same_part_of_each(undisturbed, stack, model, tmp_path):
    inside = Window(20, 300, 90, 200)
    groups = {"source": {"t": {"start": 1}, "z": [1, 0]}, "region": {"window": [20, 300, 90, 200]}}
    run(stack, model, tmp_path / "out.zarr", **groups)
    part, whole = Mosaic.open(str(tmp_path / "out.zarr")), Mosaic.open(str(undisturbed))
    assert (part.layout.stack.t.positions, part.layout.stack.z.indices) == ((2.5,), (1, 0))
    row, col = part.attributes["source_origin"]
    for z, source_z in enumerate((1, 0)):
        np.testing.assert_array_equal(
            part.classes(inside.shift(-row, -col), t=0, z=z), whole.classes(inside, t=1, z=source_z)
        )
    assert part.grid.transform @ (inside.col - col, inside.row - row) == whole.grid.transform @ (300, 20)


def test_a_plan_survives_json_and_blocks_their_names():
    lattice = Lattice.over(3000, 2000, crop_px=129, stride_px=112, node_px=4)
    plan = Plan(lattice, Region(Window(0, 0, 3000, 2000), None, (3, 1200)), 1024)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    blocks = list(plan.blocks())
    assert len(blocks) == plan.counts.blocks == 3 * 1200 * 3 * 2
    assert [Block.from_id(block.id) for block in blocks] == blocks
    assert Block(0, 0, Plane(2, 1199)).id == "t002z1199r00000c00000"
    assert Block(0, 0).id == "r00000c00000"
    with pytest.raises(ValueError, match="a block's name must be like"):
        Block.from_id("t1r00000c00000")


def test_plans_of_earlier_versions_are_read():
    lattice = Lattice.over(300, 200, crop_px=129, stride_px=112, node_px=4)
    stored = Plan(lattice, Region(Window(0, 0, 300, 200)), 1024).to_json()
    del stored["stack"]
    assert Plan.from_json(stored).region.stack is None


def test_bytes_of_a_stack_are_those_of_its_planes():
    lattice = Lattice.over(3000, 2000, crop_px=129, stride_px=112, node_px=4)
    numbers = Numbers(
        num_bands=3, sample_bytes=2, value_bytes=4, num_classes=5, logits="lattice", reading_bytes=lambda _: 0
    )
    one, six = (
        plan_bytes(Plan(lattice, Region(Window(0, 0, 3000, 2000), None, shape), 1024), numbers)
        for shape in (None, (2, 3))
    )
    assert {name: 6 * size for name, size in one.items()} == six


def test_overviews_of_a_stack_are_those_of_every_plane():
    assert factors(2500, 3000) == [2, 4]
    assert tasks(20_000, 9000, 1) == ["1/0/0", "1/0/1", "1/1/0", "1/1/1", "1/2/0", "1/2/1"]
    assert tasks(2000, 900, 1, (2, 2)) == ["1/0/0/0/0", "1/0/1/0/0", "1/1/0/0/0", "1/1/1/0/0"]
