"""The closed loop by its command line: better is promoted, worse turned down, nothing new is idle."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from jobs.retrain import main
from pipeline.raster.mosaic import Mosaic
from pipeline.registry import Registry
from tests.pipeline.train.small_tiles import settings, write_tile

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "s2_india_lulc"
CLASSES = {1: "built-up", 2: "vegetation", 3: "water"}
CROP_PX = 256


def turn(config, capsys, *flags):
    """One turn of the loop; gives exit code and report."""
    code = main(["--config", str(config), "--json", *flags])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def small(tmp_path):
    """Five small tiles of two groups, a config that trains two steps, and an empty registry."""
    for index in range(5):
        write_tile(tmp_path / "tiles", f"tile-{index}", seed=index)
    split_by_hand(tmp_path / "tiles", {"tile-4"})
    document = settings(tmp_path / "tiles", "unused", train={"max_steps": 2})
    del document["output"]
    document["registry"] = {"url": str(tmp_path / "registry")}
    document["retrain"] = {"min_new_tiles": 2, "max_class_drop": 1.0}
    config = tmp_path / "retrain.yaml"
    config.write_text(yaml.safe_dump(document))
    return config


def split_by_hand(tiles, validation):
    names = sorted(path.stem for path in (tiles / "images").iterdir())
    rows = [f"{name},{'val' if name in validation else 'train'}" for name in names]
    (tiles / "index.csv").write_text("\n".join(["id,split", *rows]) + "\n")


def files_below(path):
    found = (each for each in path.rglob("*") if each.is_file())
    return {str(each.relative_to(path)): each.stat().st_mtime_ns for each in found}


def test_a_dry_run_says_what_it_would_do_and_does_nothing(small, tmp_path, capsys):
    before = files_below(tmp_path)
    code, report = turn(small, capsys, "--dry-run")
    assert (code, report["action"], report["champion"]) == (0, "would train", None)
    assert report["tiles"]["new"] == ["tile-0", "tile-1", "tile-2", "tile-3"]
    assert files_below(tmp_path) == before


def test_the_loop_from_an_empty_registry_on(small, tmp_path, capsys):
    code, first = turn(small, capsys)
    assert (code, first["action"], first["promoted"]) == (0, "promoted", True)
    registry = Registry.at(str(tmp_path / "registry"))
    champion = registry.holder().champion.version
    assert champion == first["challenger"]
    assert "the first of its registry" in first["verdict"][0]

    # The same tiles again: nothing is trained, nothing is written.
    before = files_below(tmp_path / "registry")
    code, again = turn(small, capsys)
    assert (code, again["action"], again["champion"]) == (0, "nothing", champion)
    assert files_below(tmp_path / "registry") == before

    # One new tile is too few: refused, with both numbers.
    write_tile(tmp_path / "tiles", "tile-5", seed=5)
    split_by_hand(tmp_path / "tiles", {"tile-4"})
    code, refused = turn(small, capsys)
    assert code == 2
    assert "at least 2 new training tiles (retrain.min_new_tiles), got 1" in refused["error"]

    # For a schedule it is a quiet week: said as clearly, but no failure.
    before = files_below(tmp_path / "registry")
    code, quiet = turn(small, capsys, "--set", "retrain.too_few=wait")
    assert (code, quiet["action"], quiet["promoted"]) == (0, "wait", False)
    assert quiet["tiles"]["new"] == ["tile-5"]
    assert files_below(tmp_path / "registry") == before
    assert main(["--config", str(small), "--set", "retrain.too_few=wait", "--dry-run"]) == 0
    assert "wait: 1 new tiles" in capsys.readouterr().out

    # Two are enough; the challenger is compared on the split that was frozen, and knows its parent.
    write_tile(tmp_path / "tiles", "tile-6", seed=6)
    split_by_hand(tmp_path / "tiles", {"tile-4"})
    code, second = turn(small, capsys, "--set", "retrain.margin=2")
    assert (code, second["action"]) == (0, "turned down")
    assert second["tiles"]["new"] == ["tile-5", "tile-6"]
    assert second["tiles"]["replayed"] == 4
    assert "it must gain at least 2" in second["verdict"][0]
    assert registry.holder().champion.version == champion
    assert registry.record(second["challenger"])["parent"] == champion

    # Turned down once, the same tiles are not tried again; asked for, they are, and take the place.
    code, idle = turn(small, capsys)
    assert (code, idle["action"], idle["tiles"]["left_out"]) == (0, "nothing", ["tile-5", "tile-6"])

    # A validation tile that changes ends the comparison.
    write_tile(tmp_path / "tiles", "tile-4", seed=44)
    code, changed = turn(small, capsys)
    assert code == 2
    assert "1 of its 1 tiles are gone, changed or in another split: tile-4" in changed["error"]


def test_a_mosaic_names_the_champion_that_made_it(small, tmp_path, capsys):
    from jobs.segment_region import main as segment

    assert turn(small, capsys)[0] == 0
    arguments = [
        "--source", str(tmp_path / "tiles/images/tile-0.tif"), "--model", str(tmp_path / "registry"),
        "--output", str(tmp_path / "tile.zarr"), "--executor", "local",
    ]  # fmt: skip
    assert segment(arguments) == 0
    model = Mosaic.open(str(tmp_path / "tile.zarr")).attributes["model"]
    champion = Registry.at(str(tmp_path / "registry")).holder().champion
    assert (model["version"], model["sha256"]) == (champion.version, champion.sha256)


def cut(scene, folder, name, *, permute=False, limit):
    """Labelled squares of a scene, mislabelled on purpose or not."""
    with (
        rasterio.open(DATA / "images" / f"{scene}.tif") as image,
        rasterio.open(DATA / "labels" / f"{scene}.png") as labels,
    ):
        samples, values = image.read(), labels.read(1)
    if permute:
        values = np.array([0, 2, 3, 1], np.uint8)[values]
    squares = [
        (row, col)
        for row in range(0, values.shape[0] - CROP_PX + 1, CROP_PX)
        for col in range(0, values.shape[1] - CROP_PX + 1, CROP_PX)
        if (values[row : row + CROP_PX, col : col + CROP_PX] > 0).mean() > 0.3
    ]
    profile = {"driver": "GTiff", "height": CROP_PX, "width": CROP_PX, "dtype": "uint8"}
    for number, (row, col) in enumerate(squares[:: max(1, len(squares) // limit)][:limit]):
        part = np.s_[..., row : row + CROP_PX, col : col + CROP_PX]
        for kind, array in (("images", samples[part]), ("labels", values[part][None])):
            path = folder / kind / f"{name}-{scene}-{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            with rasterio.open(path, "w", count=len(array), **profile) as target:
                target.write(array)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_three_batches_of_real_tiles_the_mislabelled_one_is_not_promoted(tmp_path, capsys):
    if not DATA.is_dir():
        pytest.skip(f"NOT RUN: real tiles are looked for in {DATA}, which does not exist")
    tiles = tmp_path / "tiles"

    def arrive(batch, scenes, *, permute=False, limit):
        for scene in scenes:
            cut(scene, tiles, batch, permute=permute, limit=limit)
        held_out = {path.stem for path in (tiles / "images").iterdir() if path.stem.startswith("v")}
        split_by_hand(tiles, held_out)

    document = {
        "tiles": {"url": str(tiles), "images": "images/*.tif", "labels": "labels/*.tif"},
        "labels": {"values": CLASSES, "ignore": [0]},
        "registry": {"url": str(tmp_path / "registry")},
        "retrain": {"min_new_tiles": 4, "margin": 0.005, "max_class_drop": 0.05},
        "model": {"backbone": "resnet18", "image_pooling": "none"},
        "train": {
            "max_steps": 120,
            "batch": 8,
            "crop_px": 129,
            "optimizer": "adamw",
            "lr": 0.001,
            "ema": 0.98,
        },
        "validation": {"crop": {"size_px": 257, "stride_px": 192}},
        "compute": {"executor": "local"},
    }
    config = tmp_path / "retrain.yaml"
    config.write_text(yaml.safe_dump(document))

    arrive("v", (6, 45, 83, 99), limit=3)
    arrive("a", (4, 5), limit=12)  # there is no water in these
    _, first = turn(config, capsys)
    assert first["promoted"]
    arrive("b", (30, 59, 81, 96), permute=True, limit=4)
    _, bad = turn(config, capsys)
    assert not bad["promoted"]
    assert bad["figures"]["challenger"]["miou"] < bad["figures"]["champion"]["miou"] + 0.005
    arrive("c", (33, 48, 64, 76, 77, 78), limit=4)  # other scenes: the same images twice are bad tiles
    _, good = turn(config, capsys)
    assert good["status"] == "complete", good
    assert good["promoted"]
    assert good["champion"] == first["challenger"]
    assert len(good["tiles"]["left_out"]) == len(bad["tiles"]["new"])
    assert good["figures"]["challenger"]["iou"]["water"] > good["figures"]["champion"]["iou"]["water"]
    _, idle = turn(config, capsys)
    assert idle["action"] == "nothing"
    shutil.rmtree(tiles)
