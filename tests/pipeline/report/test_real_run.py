"""The page of a run that truly ran: what is fabricated elsewhere must have the shape of this."""

import json

import numpy as np
import pytest

from pipeline.config import RunConfig
from pipeline.raster.mosaic import Mosaic
from pipeline.report.page import write_report
from pipeline.segment.run import segment
from pipeline.storage import Folder
from tests.pipeline.report.fabricated import plan, record, report
from tests.pipeline.report.parsed import Page
from tests.pipeline.segment.scene import settings, write_model, write_scene


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    return write_scene(folder / "scene.tif", 1100, 150), write_model(folder / "checkpoint")


def run(inputs, output):
    return segment(RunConfig.model_validate(settings(*inputs, output)))


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """A run on disk, and what it told."""
    output = str(tmp_path_factory.mktemp("finished") / "out.zarr")
    return output, run(inputs, output)


def read_page(output):
    return Page(Folder.at(f"{output}.run").read("report.html").decode())


def test_a_real_run_gives_a_page_with_its_own_numbers(finished):
    output, told = finished
    write_report(output)
    page = read_page(output)
    assert len(page.all("img")) == 3
    rows = {row[0]: row[1:] for row in page.rows("Area of every class")[1:]}
    classes = Mosaic.open(output).classes()
    for index, name in enumerate(("water", "forest", "field")):
        pixels = int((classes == index).sum())
        if not pixels:
            assert name not in rows
            continue
        assert rows[name][1] == f"{pixels:,}"
        assert float(rows[name][0].replace(",", "")) == pytest.approx(pixels * 100 / 1e4, rel=1e-3)
    assert len(rows) == len(np.unique(classes[classes != 255])) > 1
    planned = {row[0]: row[1:] for row in page.rows("The plan beside what was measured")}
    assert planned["Blocks"][:2] == ["2", "2"]
    assert planned["Crops computed"][1] == str(told["crops"]["computed"])
    assert "No block failed" in page.text
    assert "resnet18" in page.text
    assert told["fingerprint"] in page.text


def test_everything_may_lie_in_a_bucket(inputs, s3_bucket):
    scene, model = inputs
    Folder.at(s3_bucket.url).write("scene.tif", scene.read_bytes())
    output = f"{s3_bucket.url}/out.zarr"
    run((f"{s3_bucket.url}/scene.tif", model), output)
    write_report(output)
    page = read_page(output)
    assert len(page.all("img")) == 3
    assert f'ZARR:"/vsis3/{s3_bucket.name}/out.zarr":/classes' in page.text


def test_what_is_fabricated_has_the_shape_of_what_is_real(finished):
    output, real_report = finished
    folder = Folder.at(f"{output}.run")
    grid = Mosaic.open(output).grid
    fake_plan = plan(grid, block_px=1024, blocks=2, source_url="x", output=output)
    fake_record = record("r00000c00000", np.array([1]))
    assert invented(fake_record, json_of(folder, "blocks/r00000c00000.json")) == []
    assert invented(fake_plan, json_of(folder, "plan.json")) == []
    assert invented(report(fake_plan, [fake_record]), real_report) == []


def json_of(folder, key):
    return json.loads(folder.read(key))


def invented(fake, real, where=""):
    """Names of what is fabricated, but no run writes it, or not of that type."""
    found = []
    for key, value in fake.items():
        name = f"{where}{key}"
        if key not in real:
            found.append(name)
        elif isinstance(value, dict) and value:
            found += invented(value, real[key], f"{name}.")
        elif None not in (value, real[key]) and not isinstance(real[key], type(value) | int):
            found.append(f"{name}: {type(real[key]).__name__}")
    return found
