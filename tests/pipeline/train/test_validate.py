"""Validation is what a mosaic of the same scene would give, in any blocks and on any number of ranks."""

import json
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deeplab_core import ModelConfig, build_model, load_checkpoint
from deeplab_core.metrics import BoundaryIoU, ConfusionMatrix
from deeplab_core.multiscale import MultiScale
from pipeline.config import RunConfig
from pipeline.errors import ModelError, SettingsError
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.window import Window
from pipeline.segment.run import segment
from pipeline.storage import Folder
from pipeline.train.validation import tile_segmenter
from pipeline.train.validation.figures import TileScore, Validation
from pipeline.train.validation.tile_pictures import PICTURE_PX, color_bands, write_tile_pictures
from pipeline.train.validation.tile_segmenter import Inference, TileSegmenter
from pipeline.train.validation.validate import Piece, choose_tiles, gathered, share, validate
from tests.deeplab_core.tiny_segmenter import TinySegmenter
from tests.pipeline.segment.scene import CROPS, MEAN, STD, settings, write_model
from tests.pipeline.train.labelled_scene import CLASSES, COLORS, make_tile, tile_set

CPU = torch.device("cpu")
SIZE = {"crop_px": CROPS["size_px"], "stride_px": CROPS["stride_px"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("validate")


@pytest.fixture(scope="module")
def model(folder):
    return load_checkpoint(write_model(folder / "model"))


@pytest.fixture(scope="module")
def quick_model():
    model = TinySegmenter(num_classes=3)
    model.config = model.config.model_copy(update={"classes": CLASSES})
    return model


@pytest.fixture(scope="module")
def scene(folder):
    """A scene of many crops, and what is true of it."""
    return make_tile(folder, "scene", 397, 262)


@pytest.fixture(scope="module")
def small(folder):
    """Smaller than a crop, and of no multiple of anything."""
    return make_tile(folder, "small", 61, 47, seed=3)


HOW = Inference(MEAN, STD, CPU, precision="fp32", **SIZE)


def run(model, tiles, *, threads=1, rank=0, world_size=1, block_px=2048, **how):
    return validate(
        model, tiles, "val", replace(HOW, **how),
        threads=threads, rank=rank, world_size=world_size, block_px=block_px,
    )  # fmt: skip


def mosaic_classes(folder, tile):
    output = folder / f"{tile.id}.zarr"
    if not output.exists():
        segment(RunConfig.model_validate(settings(tile.image, folder / "model", output)))
    return np.asarray(Mosaic.open(str(output)).array("classes")[:])


def without_time(validation):
    return validation.to_dict() | {"seconds": 0}


@pytest.mark.parametrize("which", ["scene", "small"])
def test_it_is_the_mosaic_of_the_scene_against_the_labels(which, folder, model, request):
    tile, labels = request.getfixturevalue(which)
    classes = mosaic_classes(folder, tile)
    expected = ConfusionMatrix(3)
    expected.update(classes, labels)
    outline = BoundaryIoU(3, width_px=round(0.02 * math.hypot(129, 129)))
    outline.update(classes, labels)
    found = run(model, tile_set(tile))
    np.testing.assert_array_equal(found.confusion.counts, expected.counts)
    assert found.boundary.to_dict() == outline.to_dict()
    assert found.confusion.counts.sum() == (labels != 255).sum() > 1000
    assert (found.boundary.unions > 0).all()
    if which == "scene":
        hits = np.diagonal(expected.counts)
        assert (hits > 0).sum() >= 2, "a model that knows one class only shows nothing"


def test_blocks_change_nothing(quick_model, scene):
    tiles = tile_set(scene[0])
    whole = run(quick_model, tiles)
    assert (np.diagonal(whole.confusion.counts) > 0).all()
    cut = run(quick_model, tiles, block_px=144)
    assert cut.confusion.to_dict() == whole.confusion.to_dict()
    assert cut.boundary.to_dict() == whole.boundary.to_dict()
    assert cut.per_tile[0].hits == whole.per_tile[0].hits


def test_ranks_share_the_blocks_and_lose_none(quick_model, scene, small):
    tiles = tile_set(scene[0], small[0])
    whole = run(quick_model, tiles, block_px=160)
    shares = [run(quick_model, tiles, block_px=160, rank=rank, world_size=3) for rank in range(3)]
    assert all(one.confusion.counts.any() for one in shares)
    for order in ((0, 1, 2), (2, 0, 1)):
        first, second, third = (Validation.from_dict(shares[rank].to_dict()) for rank in order)
        assert without_time(first + second + third) == without_time(whole)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=30),
    world_size=st.integers(1, 9),
)
def test_every_block_has_one_rank_and_ranks_have_about_as_much(sizes, world_size):
    pieces = [Piece(None, Window(index, 0, *size)) for index, size in enumerate(sizes)]
    shares = [share(pieces, rank, world_size) for rank in range(world_size)]
    assert [piece for own in shares for piece in own] == pieces
    even = sum(height * width for height, width in sizes) / world_size
    largest = max(height * width for height, width in sizes)
    assert all(sum(piece.window.num_pixels for piece in own) <= even + largest for own in shares)


def test_alone_nobody_is_waited_for(model, small):
    found = run(model, tile_set(small[0]))
    assert gathered(found) is found


def test_the_model_and_the_process_are_left_as_they_were(small):
    # Of a decoder that is not separable layers are made anew, with weights of their own at first.
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(backbone="timm/test_resnet.r160_in1k", separable=False, classes=CLASSES)
    ).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    run(model, tile_set(small[0]), threads=threads + 1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_with_synchronised_norms_is_validated_like_any(model, small):
    from deeplab_core.sync_bn import convert_sync_batchnorm

    plain = run(model, tile_set(small[0]))
    converted = convert_sync_batchnorm(load_checkpoint(model_folder(small)))
    assert without_time(run(converted.train(), tile_set(small[0]))) == without_time(plain)


def model_folder(small):
    return Path(small[0].image).parent / "model"


def test_short_of_memory_it_goes_on_with_a_network_for_fewer_crops(quick_model, scene, small, monkeypatch):
    """A GPU's network is filled up to its batch, however few crops come: only a new one takes less memory."""
    plain = run(quick_model, tile_set(scene[0], small[0]))
    prepare, fused = tile_segmenter.prepare_for_inference, MultiScale.fused
    batches: list[int] = []
    computed: list[int] = []

    def counted(model, **how):
        batches.append(how["batch"])
        return prepare(model, **how)

    def short_of_memory(self, images_NCHW):
        if batches[-1] > 1:
            raise torch.OutOfMemoryError("no room for more than one crop")
        computed.append(len(images_NCHW))
        return fused(self, images_NCHW)

    monkeypatch.setattr(tile_segmenter, "prepare_for_inference", counted)
    monkeypatch.setattr(MultiScale, "fused", short_of_memory)
    found = run(quick_model, tile_set(scene[0], small[0]))
    assert batches == [2, 1], "and tiles of another size begin with what was found to fit"
    assert set(computed) == {1}
    assert without_time(found) == without_time(plain)


def test_flips_and_scales_are_those_of_the_engine(model, small):
    plain = run(model, tile_set(small[0]))
    fused = run(model, tile_set(small[0]), scales=(0.75, 1.0), flips=("h",))
    assert fused.confusion.counts.sum() == plain.confusion.counts.sum()
    assert (fused.confusion.counts != plain.confusion.counts).any()


def test_a_tile_without_labels_counts_nothing_and_is_no_best_tile(folder, model, small):
    import rasterio

    blank, _ = make_tile(folder, "blank", 70, 50, seed=4)
    with rasterio.open(blank.labels, "r+") as labels:
        labels.write(np.full((1, 70, 50), 9, np.uint8))
    found = run(model, tile_set(small[0], blank))
    assert [score.id for score in found.per_tile] == ["blank", "small"]
    assert [score.id for score in found.ranked()] == ["small"]
    assert without_time(run(model, tile_set(small[0])))["confusion"] == without_time(found)["confusion"]
    told = found.to_json()
    assert told["tiles"][0] == {"id": "blank", "miou": None, "pixel_accuracy": None, "pixels": 0}


def test_figures_are_fit_for_json_and_follow_from_the_counts(quick_model, scene):
    found = run(quick_model, tile_set(scene[0]))
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(told["iou"]) == list(CLASSES)
    assert told["miou"] == pytest.approx(found.confusion.miou)
    assert told["confusion"] == found.confusion.counts.tolist()
    score = found.per_tile[0]
    assert score.miou == pytest.approx(found.confusion.miou)
    assert score.pixel_accuracy == pytest.approx(found.confusion.pixel_accuracy)
    assert told["pixels"] == score.pixels


def test_what_does_not_fit_is_refused(model, small):
    train_only = tile_set(replace(small[0], split="train"))
    with pytest.raises(SettingsError, match=r"none of 1 is in the split 'val'; raise tiles\.val_share"):
        run(model, train_only)
    others = replace(tile_set(small[0]), classes=("a", "b", "c"))
    with pytest.raises(ModelError, match=r"\['a', 'b', 'c'\], got \['water', 'forest', 'field'\]"):
        run(model, others)
    with pytest.raises(SettingsError, match="multiple of 16 plus 1"):
        run(model, tile_set(small[0]), crop_px=130)


def test_a_few_tiles_are_always_the_same_few(small):
    names = [f"tile-{index}" for index in range(50)]
    tiles = [replace(small[0], id=name) for name in names]
    few = choose_tiles(tile_set(*tiles), "val", 8)
    again = choose_tiles(tile_set(*reversed(tiles)), "val", 8)
    assert [tile.id for tile in few] == [tile.id for tile in again]
    assert [tile.id for tile in few] != sorted(names)[:8], "the first ones are neighbours on the ground"
    assert len(choose_tiles(tile_set(*tiles), "val", None)) == 50


def scores(tile_id="t"):
    def make(hits, wrong, row):
        true = tuple(hit + error for hit, error in zip(hits, wrong, strict=True))
        return TileScore(tile_id, hits, true, true, Window(row, 0, 4, 4), sum(wrong))

    three = st.tuples(*[st.integers(0, 5)] * 3)
    return st.builds(make, three, three, st.integers(0, 9))


@given(one=scores(), two=scores(), three=scores())
def test_parts_of_a_tile_add_up_in_any_order(one, two, three):
    assert (one + two) + three == three + (two + one)
    assert TileScore.from_dict((one + two).to_dict()) == one + two


def decoded(folder, key):
    return np.asarray(Image.open(BytesIO(folder.read(key))).convert("RGBA"))


def test_pictures_show_truth_and_prediction_where_the_most_is_wrong(folder, tmp_path, model, scene, small):
    other, _ = make_tile(folder, "other", 100, 90, seed=7)
    tiles = tile_set(scene[0], small[0], other)
    found = run(model, tiles)
    index = write_tile_pictures(Folder.at(tmp_path), TileSegmenter(model, HOW), tiles, found, threads=1)
    assert json.loads((tmp_path / "validation/pictures.json").read_text()) == index
    assert [one["kind"] for one in index] == ["worst", "worst", "best"]
    assert [one["id"] for one in index[:2]] == [score.id for score in found.ranked()[:2]]
    entry = next(one for one in index if one["id"] == "scene")
    row, col, height, width = entry["window"]
    assert (height, width) == (PICTURE_PX, 262)
    labels = scene[1][row : row + height, col : col + width]
    classes = mosaic_classes(folder, scene[0])[row : row + height, col : col + width]
    palette = np.array([[*bytes.fromhex(color[1:]), 255] for color in COLORS] + [[0, 0, 0, 0]] * 253)
    folder_of_run = Folder.at(tmp_path)
    np.testing.assert_array_equal(decoded(folder_of_run, entry["pictures"]["truth"]), palette[labels])
    predicted = decoded(folder_of_run, entry["pictures"]["prediction"])
    counts = labels != 255
    np.testing.assert_array_equal(predicted[counts], palette[classes][counts])
    errors = (mosaic_classes(folder, scene[0]) != scene[1]) & (scene[1] != 255)
    places = [errors[top : top + PICTURE_PX].sum() for top in (0, 397 - PICTURE_PX)]
    assert errors[row : row + height].sum() == max(places)
    image = decoded(folder_of_run, entry["pictures"]["image"])
    assert np.ptp(image[..., :3][counts]) > 100


@pytest.mark.parametrize(
    ("bands", "chosen"),
    [
        (("B02", "B03", "B04", "B08"), [2, 1, 0]),
        (("nir", "red", "green", "blue"), [1, 2, 3]),
        (("band 1", "band 2", "band 3", "band 4"), [0, 1, 2]),
        (("intensity",), [0]),
        (("vv", "vh"), [0]),
    ],
)
def test_bands_are_shown_in_their_own_colours(bands, chosen):
    assert color_bands(bands) == chosen


MEASURE = """
import pickle, re, sys
import torch
from pipeline.train.validation.tile_segmenter import Inference
from pipeline.train.validation.validate import validate
from tests.deeplab_core.tiny_segmenter import TinySegmenter
with open(sys.argv[1], "rb") as file:
    tiles = pickle.load(file)
model = TinySegmenter(num_classes=3)
model.config = model.config.model_copy(update={"classes": tiles.classes})
cpu = torch.device("cpu")
how = Inference((80.0,) * 3, (30.0,) * 3, cpu, crop_px=129, stride_px=112, precision="fp32")
found = validate(model, tiles, "val", how, threads=1, block_px=int(sys.argv[2]))
with open("/proc/self/status") as file:  # of this program alone; getrusage begins with its parent's
    peak_kib = int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1])
print(found.confusion.counts.sum(), peak_kib * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path):
    peaks = {}
    for height, block_px in ((600, 512), (6000, 512), (6000, 8192)):
        tile, labels = make_tile(tmp_path, f"of-{height}", height, 1500)
        (tmp_path / "tiles.pickle").write_bytes(pickle.dumps(tile_set(tile)))
        arguments = [str(tmp_path / "tiles.pickle"), str(block_px)]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", MEASURE, *arguments],
            cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
        )  # fmt: skip
        pixels, peaks[height, block_px] = map(int, done.stdout.split())
        assert pixels == (labels != 255).sum()
    # Ten times the scene, of which GDAL keeps what it has decoded, 36 MB.
    assert peaks[6000, 512] < peaks[600, 512] + (96 << 20), peaks
    assert peaks[6000, 8192] > peaks[600, 512] + (192 << 20), (
        "the measure would not show a whole scene at once"
    )
