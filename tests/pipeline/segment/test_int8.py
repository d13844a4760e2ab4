"""A calibrated model runs in 8 bits: nearly the same labels, exactly the same ones however it is cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st

from deeplab_core import load_checkpoint
from deeplab_core.int8 import computes_in_int8
from deeplab_core.metadata import CheckpointMetadata
from pipeline.config import RunConfig
from pipeline.errors import SettingsError, SourceError
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.window import Window
from pipeline.segment.calibrate import _windows, calibrate_model
from pipeline.segment.inspect import inspect
from pipeline.segment.machine import this_machine
from pipeline.segment.planned import plan_inspected
from pipeline.segment.run import segment
from tests.pipeline.segment.scene import array_objects, settings, write_scene

needs_bytes = pytest.mark.skipif(
    not computes_in_int8(torch.device("cpu")),
    reason="this processor does not multiply bytes: that 8 bits give the same labels is NOT shown",
)


def config(source: Path, model: Path, output: Path, /, **groups) -> RunConfig:
    return RunConfig.model_validate(settings(source, model, output, **groups))


@pytest.fixture(scope="module")
def calibrated(scene, model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "checkpoint"
    calibrate_model(config(scene, model, path), str(path), num_crops=12)
    return path


@pytest.fixture(scope="module")
def in_int8(scene, calibrated, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("int8") / "out.zarr"
    assert segment(config(scene, calibrated, output, inference={"precision": "int8"}))["status"] == "complete"
    return output


class TestRuns:
    @needs_bytes
    def test_nearly_all_labels_are_those_of_float32(self, undisturbed, in_int8) -> None:
        expected, got = (Mosaic.open(str(path)).classes() for path in (undisturbed, in_int8))
        assert np.array_equal(got == 255, expected == 255)
        valid = expected != 255
        assert len(np.unique(expected[valid])) > 1, "one class everywhere proves nothing"
        assert (got[valid] == expected[valid]).mean() > 0.97  # random weights; trained ones: 99.9 %

    @needs_bytes
    @pytest.mark.parametrize(
        "groups",
        [{"block": {"size_px": 2048}}, {"compute": {"threads_per_worker": 2}}, {"inference": {"batch": 3}}],
    )
    def test_the_bytes_do_not_depend_on_how_it_is_cut(
        self, scene, calibrated, in_int8, tmp_path, groups
    ) -> None:
        inference = {"precision": "int8"} | groups.get("inference", {})
        output = tmp_path / "out.zarr"
        segment(config(scene, calibrated, output, **(groups | {"inference": inference})))
        assert array_objects(output) == array_objects(in_int8)

    def test_an_uncalibrated_model_is_refused_before_anything_is_written(
        self, scene, model, tmp_path
    ) -> None:
        output = tmp_path / "out.zarr"
        wish = config(scene, model, output, inference={"precision": "int8"})
        with pytest.raises(SettingsError, match=r"calibrated model.*jobs/calibrate_model\.py|multiply bytes"):
            segment(wish)
        assert not output.exists()

    @pytest.mark.parametrize(
        ("change", "groups", "message"),
        [
            ({"cpu_int8": False}, {}, "must run on processors that multiply bytes .*, got this processor"),
            ({"cpu_int8": True, "gpus": 1.0}, {}, "got GPUs; use auto"),
            ({"cpu_int8": True}, {"compile": "on"}, "inference.compile must be auto or off"),
        ],
    )
    def test_what_cannot_run_in_int8_is_refused(
        self, scene, calibrated, tmp_path, change, groups, message
    ) -> None:
        wish = config(scene, calibrated, tmp_path / "out.zarr", inference={"precision": "int8"} | groups)
        machine = replace(this_machine(), gpus=0.0)
        with pytest.raises(SettingsError, match=message):
            plan_inspected(wish, inspect(wish), replace(machine, **change))

    def test_auto_does_not_choose_it(self, scene, calibrated, tmp_path) -> None:
        wish = config(scene, calibrated, tmp_path / "out.zarr", inference={"precision": "auto"})
        planned = plan_inspected(wish, inspect(wish), this_machine())
        assert planned.choices.precision in ("fp32", "bf16")


class TestCheckpoint:
    def test_it_is_the_same_model_with_what_was_found(self, model, calibrated) -> None:
        before, after = load_checkpoint(model), load_checkpoint(calibrated)
        assert before.calibration is None
        assert after.calibration is not None
        assert len(after.calibration.inputs) == 28  # all of a ResNet-18 v3+ but the first and the last
        for name, weight in before.state_dict().items():
            assert torch.equal(weight, after.state_dict()[name]), name
        told, found = metadata(model), metadata(calibrated)
        assert found.lineage.parent == f"sha256:{told.sha256}"
        assert found.calibrated
        assert found.sha256 != told.sha256
        assert (found.mean, found.std, found.bands, found.colors) == (
            told.mean,
            told.std,
            told.bands,
            told.colors,
        )

    def test_calibrating_twice_gives_the_same_bytes(self, scene, model, calibrated, tmp_path) -> None:
        calibrate_model(config(scene, model, tmp_path), str(tmp_path / "again"), num_crops=12)
        assert metadata(tmp_path / "again").sha256 == metadata(calibrated).sha256


def metadata(path: Path) -> CheckpointMetadata:
    return CheckpointMetadata.from_json((path / "model.json").read_bytes(), where=str(path))


class TestCrops:
    @given(
        st.integers(0, 999),
        st.integers(0, 999),
        st.integers(1, 5000),
        st.integers(1, 5000),
        st.integers(1, 60),
    )
    def test_places_lie_in_the_region_and_all_over_it(self, row, col, height, width, count) -> None:
        crop_px = 129
        box = Window(row, col, height, width)
        found = list(_windows(box, crop_px, count))
        assert 1 <= len(found) <= count
        assert len({(window.row, window.col) for window in found}) == len(found)
        for window in found:
            assert window.shape == (crop_px, crop_px)
            assert window.row >= row
            assert window.col >= col
            assert window.row_stop <= max(box.row_stop, row + crop_px)
            assert window.col_stop <= max(box.col_stop, col + crop_px)
        if count >= 40 and min(height, width) > 2000:
            quarters = {
                (w.row - row > (height - crop_px) / 2, w.col - col > (width - crop_px) / 2) for w in found
            }
            assert len(quarters) == 4

    def test_a_source_smaller_than_a_crop_is_calibrated_on(self, model, tmp_path) -> None:
        scene = write_scene(tmp_path / "small.tif", 70, 50, holes=False)
        report = calibrate_model(config(scene, model, tmp_path), str(tmp_path / "out"), num_crops=4)
        assert report["crops"] == 1

    def test_where_crops_are_few_measuring_comes_before_comparing(self, model, tmp_path) -> None:
        scene = write_scene(tmp_path / "small.tif", 131, 130, holes=False)  # six places at most
        report = calibrate_model(config(scene, model, tmp_path), str(tmp_path / "out"), num_crops=4)
        assert report["crops"] == 4

    def test_a_source_without_data_is_refused_and_nothing_is_written(self, scene, model, tmp_path) -> None:
        empty = tmp_path / "empty.tif"
        with rasterio.open(scene) as source, rasterio.open(empty, "w", **source.profile) as target:
            target.descriptions = source.descriptions
        with pytest.raises(SourceError, match="must have valid pixels in the region to calibrate on"):
            calibrate_model(config(empty, model, tmp_path), str(tmp_path / "out"), num_crops=4)
        assert not (tmp_path / "out").exists()
