import shlex
import sys
from types import ModuleType

import numpy as np
import pytest

from pipeline.report.open_in import ways_to_open
from pipeline.report.page import look_at
from pipeline.report.run_folder import read_run
from tests.pipeline.report.fabricated import small_run

FOLDERS = ("plain", 'it\'s a "folder"', "wälder 🌲")


@pytest.fixture(params=FOLDERS)
def subject(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    return look_at(read_run(small_run(folder)), source_url=None)


def command(subject, title):
    return next(way.command for way in ways_to_open(subject) if way.title == title)


def test_python_reads_what_the_page_says(subject):
    names = {}
    exec(command(subject, "Python"), names)  # noqa: S102
    assert names["classes"].shape == (40, 60)
    assert names["classes"][10, 20] == 1
    assert names["confidence"][10, 20] == 200


def test_xarray_reads_what_the_page_says(subject):
    names = {}
    exec(command(subject, "xarray"), names)  # noqa: S102
    assert names["classes"].dims == ("y", "x")
    assert np.array_equal(names["classes"].values, subject.mosaic.classes())


def test_napari_is_given_the_classes_in_their_colours(subject, monkeypatch):
    """Napari needs a screen; a stand-in takes down what it would have been given."""
    calls = []

    class Viewer:
        def add_labels(self, data, **options):
            calls.append((data, options))

    stand_in = ModuleType("napari")
    stand_in.Viewer, stand_in.run = Viewer, lambda: None
    monkeypatch.setitem(sys.modules, "napari", stand_in)
    exec(command(subject, "napari"), {})  # noqa: S102
    [(data, options)] = calls
    assert np.array_equal(data[:], subject.mosaic.classes())
    assert options["colormap"][3] == "#a4433a"
    assert options["colormap"][None] == "transparent"


def test_commands_for_the_shell_keep_their_arguments_whole(subject):
    export = shlex.split(command(subject, "A GeoTIFF for any program"))
    assert export[3] == subject.run.output_url
    assert export[-1] == "land.tif"
    assert shlex.split(command(subject, "GDAL"))[1] == f'ZARR:"{subject.run.output_url}":/classes'


def test_buckets_are_named_as_gdal_names_them(tmp_path):
    run = read_run(small_run(tmp_path))
    run.report["output"] = "s3://bucket/land.zarr"
    subject = look_at(run, source_url=None)
    assert command(subject, "QGIS") == 'ZARR:"/vsis3/bucket/land.zarr":/classes'
    assert "Mosaic.open('s3://bucket/land.zarr')" in command(subject, "Python")
