"""The mosaic as its writers and readers see it."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StorageError
from pipeline.raster.mosaic import (
    BlockArrays,
    Mosaic,
    MosaicWriter,
    array_names,
    checksum,
    create_mosaic,
)
from pipeline.raster.window import Window
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import NODE_PX, ROTATED, UPRIGHT, make_contents


def objects(folder):
    return {found.key: folder.read(found.key) for found in folder.listing()}


@pytest.mark.parametrize("logits", ["none", "lattice", "full"])
@pytest.mark.parametrize("shape", [(1, 1), (1024, 1024), (1025, 1100), (3, 1027)])
class TestBlocks:
    def test_what_was_written_is_read_back(self, tmp_path, logits, shape):
        contents = make_contents(*shape, logits=logits)
        contents.write(Folder.at(tmp_path))
        mosaic = Mosaic.open(str(tmp_path))
        np.testing.assert_array_equal(mosaic.classes(), contents.classes)
        np.testing.assert_array_equal(mosaic.confidence(), contents.confidence)
        if contents.logits is not None:
            np.testing.assert_array_equal(mosaic.array("logits")[:], contents.logits)

    def test_recorded_checksums_are_those_of_the_stored_objects(self, tmp_path, logits, shape):
        folder = Folder.at(tmp_path)
        contents = make_contents(*shape, logits=logits)
        written = contents.write(folder)
        stored = {
            found.key: checksum(folder.read(found.key))
            for name in array_names(contents.layout)
            for found in folder.listing(f"{name}/c/")
        }
        assert written == stored
        assert stored


class TestWriters:
    def test_order_and_number_of_writers_do_not_show(self, tmp_path):
        contents = make_contents(1100, 2100, logits="lattice")
        contents.write(Folder.at(tmp_path / "in order"))
        backwards = contents.windows()
        random.Random(3).shuffle(backwards)
        folder = Folder.at(tmp_path / "side by side")
        create_mosaic(folder, contents.layout)
        writers = [MosaicWriter(folder, contents.layout) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            jobs = [
                pool.submit(writers[i % 4].write, window, contents.arrays(window))
                for i, window in enumerate(backwards)
            ]
            assert len({key for job in jobs for key in job.result()}) == 6 * 3
        larger = Folder.at(tmp_path / "larger blocks")
        contents.write(larger, contents.windows(2048))
        first = objects(Folder.at(tmp_path / "in order"))
        assert objects(folder) == first
        assert objects(larger) == first

    def test_each_object_has_one_writer(self, tmp_path):
        contents = make_contents(1100, 2100, logits="lattice")
        folder = Folder.at(tmp_path)
        create_mosaic(folder, contents.layout)
        writer = MosaicWriter(folder, contents.layout)
        written = [
            key for window in contents.windows() for key in writer.write(window, contents.arrays(window))
        ]
        assert len(written) == len(set(written))

    def test_writing_a_block_twice_writes_the_same_bytes(self, tmp_path):
        contents = make_contents(1100, 300, logits="lattice")
        folder = Folder.at(tmp_path)
        written = contents.write(folder)
        before = objects(folder)
        assert contents.write(folder) == written
        assert objects(folder) == before

    @pytest.mark.parametrize("logits", ["lattice", "full"])
    def test_objects_that_were_cut_short_are_replaced(self, tmp_path, logits):
        """A power cut leaves them; zarr would read a shard before it writes it, and fail for ever."""
        contents = make_contents(1100, 1300, logits=logits)
        folder = Folder.at(tmp_path)
        written = contents.write(folder)
        before = objects(folder)
        for key in written:
            data = (tmp_path / key).read_bytes()
            (tmp_path / key).write_bytes(data[: len(data) // 2])
        assert contents.write(folder) == written
        assert objects(folder) == before

    def test_creating_again_is_harmless(self, tmp_path):
        contents = make_contents(1100, 300, logits="lattice")
        folder = Folder.at(tmp_path)
        contents.write(folder)
        before = objects(folder)
        create_mosaic(folder, contents.layout)
        assert objects(folder) == before

    @pytest.mark.parametrize("survivors", range(0, 12, 2))
    def test_a_creation_that_was_killed_is_finished(self, tmp_path, survivors):
        """Only the first few metadata objects were written."""
        contents = make_contents(1100, 700, logits="lattice")
        whole, killed = Folder.at(tmp_path / "whole"), Folder.at(tmp_path / "killed")
        create_mosaic(whole, contents.layout)
        kept = sorted(objects(whole).items(), key=lambda item: (item[0].count("/"), item[0]))[:survivors]
        for key, data in kept:
            killed.write(key, data)
        create_mosaic(killed, contents.layout)
        assert objects(killed) == objects(whole)

    def test_a_block_without_data_leaves_nothing_behind_that_was_there(self, tmp_path):
        contents = make_contents(1024, 1024, logits="lattice")
        folder = Folder.at(tmp_path)
        contents.write(folder)
        nothing = BlockArrays(
            np.full((1024, 1024), 255, np.uint8),
            np.full((1024, 1024), 255, np.uint8),
            np.full((3, 257, 257), np.nan, np.float16),
        )
        MosaicWriter(folder, contents.layout).write(Window(0, 0, 1024, 1024), nothing)
        mosaic = Mosaic.open(str(tmp_path))
        assert (mosaic.classes() == 255).all()
        assert (mosaic.confidence() == 255).all()
        assert np.isnan(mosaic.logits()).all()

    def test_what_is_not_written_has_no_data(self, tmp_path):
        contents = make_contents(1300, 1030, logits="lattice")
        contents.write(Folder.at(tmp_path), [Window(0, 0, 1024, 1024)])
        mosaic = Mosaic.open(str(tmp_path))
        far = Window(1100, 0, 200, 1030)
        assert (mosaic.classes(far) == 255).all()
        assert (mosaic.confidence(far) == 255).all()
        assert np.isnan(mosaic.logits(far)).all()


class TestClasses:
    @pytest.mark.parametrize(
        ("num_classes", "dtype", "nodata"), [(1, "uint8", 255), (255, "uint8", 255), (256, "uint16", 65535)]
    )
    def test_the_type_holds_every_class_and_nodata(self, tmp_path, num_classes, dtype, nodata):
        contents = make_contents(300, 500, num_classes=num_classes)
        contents.write(Folder.at(tmp_path))
        mosaic = Mosaic.open(str(tmp_path))
        assert mosaic.classes().dtype == np.dtype(dtype)
        assert mosaic.layout.class_nodata == nodata
        np.testing.assert_array_equal(mosaic.classes(), contents.classes)
        assert num_classes - 1 in mosaic.classes()
        assert nodata in mosaic.classes()

    @pytest.mark.parametrize("transform", [UPRIGHT, ROTATED])
    def test_the_layout_is_read_back(self, tmp_path, transform):
        contents = make_contents(300, 500, logits="lattice", transform=transform)
        contents.write(Folder.at(tmp_path))
        mosaic = Mosaic.open(str(tmp_path))
        for name in ("class_names", "class_colors", "logits", "node_px", "lattice_shape"):
            assert getattr(mosaic.layout, name) == getattr(contents.layout, name)
        assert mosaic.grid.transform == transform
        assert mosaic.grid.window == contents.layout.grid.window
        assert mosaic.attributes["model"] == {"id": "test"}

    @given(
        row=st.integers(0, 1099),
        col=st.integers(0, 1199),
        height=st.integers(0, 900),
        width=st.integers(0, 900),
    )
    @settings(max_examples=15, deadline=None)
    def test_any_window(self, tmp_path_factory, row, col, height, width):
        contents = make_contents(1100, 1200)
        path = tmp_path_factory.getbasetemp() / "any-window.zarr"
        if not path.exists():
            contents.write(Folder.at(path))
        window = Window(row, col, height, width).intersect(contents.layout.grid.window)
        found = Mosaic.open(str(path)).classes(window)
        np.testing.assert_array_equal(found, contents.classes[window.slices])

    @pytest.mark.parametrize("window", [Window(-1, 0, 5, 5), Window(0, 296, 5, 5), Window(400, 0, 1, 1)])
    def test_a_window_past_the_edge_is_refused(self, tmp_path, window):
        make_contents(300, 300).write(Folder.at(tmp_path))
        with pytest.raises(ValueError, match=r"the window must lie in the mosaic's \(300, 300\), got Window"):
            Mosaic.open(str(tmp_path)).classes(window)


class TestLogits:
    @pytest.mark.parametrize("shape", [(1, 1), (6, 9), (1100, 501)])
    def test_their_winner_is_the_class(self, tmp_path, shape):
        contents = make_contents(*shape, logits="lattice", num_classes=5)
        contents.write(Folder.at(tmp_path))
        logits = Mosaic.open(str(tmp_path)).logits()
        known = contents.classes != 255
        assert known.any()
        assert np.mean(logits.argmax(0)[known] == contents.classes[known]) > 0.99999
        assert np.isnan(logits[:, ~known]).all()
        assert not np.isnan(logits[:, known]).any()

    @given(
        row=st.integers(0, 400), col=st.integers(0, 300), height=st.integers(1, 99), width=st.integers(1, 99)
    )
    @settings(max_examples=25, deadline=None)
    def test_they_are_torchs_interpolated_probabilities(self, tmp_path_factory, row, col, height, width):
        contents = make_contents(447, 353, logits="lattice")
        path = tmp_path_factory.getbasetemp() / "logits.zarr"
        if not path.exists():
            contents.write(Folder.at(path))
        window = Window(row, col, height, width).intersect(contents.layout.grid.window)
        found = Mosaic.open(str(path)).logits(window)
        nodes = torch.from_numpy(contents.logits.astype(np.float32)).exp()
        size = [(count - 1) * NODE_PX + 1 for count in nodes.shape[1:]]
        full = torch.nn.functional.interpolate(nodes[None], size=size, mode="bilinear", align_corners=True)
        expected = full[0].log().numpy()[:, *window.slices]
        expected[:, contents.classes[window.slices] == 255] = np.nan
        np.testing.assert_allclose(found, expected, atol=2e-5)

    def test_full_ones_are_given_as_stored(self, tmp_path):
        contents = make_contents(300, 500, logits="full")
        contents.write(Folder.at(tmp_path))
        window = Window(20, 30, 100, 200)
        found = Mosaic.open(str(tmp_path)).logits(window)
        np.testing.assert_array_equal(found, contents.logits[:, *window.slices].astype(np.float32))
        assert found.dtype == np.float32

    def test_none_are_refused(self, tmp_path):
        make_contents(30, 30).write(Folder.at(tmp_path))
        with pytest.raises(StorageError, match=r"written with output\.logits: none"):
            Mosaic.open(str(tmp_path)).logits()


class TestOpening:
    def test_nothing_there(self, tmp_path):
        for path in (tmp_path, tmp_path / "absent"):
            with pytest.raises(StorageError, match=f"there must be a mosaic at {path}; there is none"):
                Mosaic.open(str(path))

    def test_an_array_is_not_a_mosaic(self, tmp_path):
        make_contents(30, 30).write(Folder.at(tmp_path))
        with pytest.raises(StorageError, match="there must be a mosaic at"):
            Mosaic.open(str(tmp_path / "classes"))

    def test_another_group_is_not_a_mosaic(self, tmp_path):
        zarr.create_group(str(tmp_path))
        with pytest.raises(StorageError, match="not a mosaic of format terrazzo-mosaic/1"):
            Mosaic.open(str(tmp_path))

    def test_a_mosaic_of_another_format_is_told_from_what_is_none(self, tmp_path):
        zarr.create_group(str(tmp_path), attributes={"format": "terrazzo-mosaic/2"})
        with pytest.raises(StorageError, match=r"mosaic/1, got terrazzo-mosaic/2 at .*another version"):
            Mosaic.open(str(tmp_path))

    @pytest.mark.parametrize("missing", ["classes/zarr.json", "spatial_ref/zarr.json"])
    def test_half_a_mosaic_is_said_to_be_one(self, tmp_path, missing):
        make_contents(30, 30).write(Folder.at(tmp_path))
        Folder.at(tmp_path).delete([missing])
        with pytest.raises(StorageError, match=r"lacks .*; run its job again"):
            Mosaic.open(str(tmp_path))

    def test_an_array_that_is_not_there(self, tmp_path):
        make_contents(30, 30).write(Folder.at(tmp_path))
        mosaic = Mosaic.open(str(tmp_path))
        with pytest.raises(StorageError, match="the mosaic has no array 'overviews/2/classes'"):
            mosaic.array("overviews/2/classes")
        assert mosaic.overview_factors() == []

    def test_writing_where_nothing_was_created(self, tmp_path):
        with pytest.raises(StorageError, match="cannot open a mosaic at"):
            MosaicWriter(Folder.at(tmp_path), make_contents(30, 30).layout)


class TestInABucket:
    def test_it_is_the_same_mosaic(self, s3_bucket, tmp_path):
        contents = make_contents(1100, 500, logits="lattice")
        there, here = Folder.at(f"{s3_bucket.url}/runs/a mosaic"), Folder.at(tmp_path)
        assert contents.write(there) == contents.write(here)
        assert objects(there) == objects(here)
        mosaic = Mosaic.open(f"{s3_bucket.url}/runs/a mosaic")
        np.testing.assert_array_equal(mosaic.classes(), contents.classes)

    def test_a_server_that_turns_us_down_is_explained(self, s3_bucket):
        contents = make_contents(30, 30)
        folder = Folder.at(f"{s3_bucket.url}/m")
        contents.write(folder)
        mosaic = Mosaic.open(folder.url)
        writer = MosaicWriter(folder, contents.layout)
        s3_bucket.check_credentials()
        for act in (
            lambda: Mosaic.open(folder.url),
            mosaic.classes,
            lambda: create_mosaic(folder, contents.layout),
            lambda: MosaicWriter(folder, contents.layout),
            lambda: writer.write(Window(0, 0, 30, 30), contents.arrays(Window(0, 0, 30, 30))),
        ):
            with pytest.raises(StorageError, match=r"s3://terrazzo-tests/m: .*InvalidAccessKeyId") as caught:
                act()
            assert "not-a-real-secret" not in str(caught.value)
