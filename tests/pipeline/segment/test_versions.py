"""Nights on local files: what is computed, what is copied, what readers see, and what is refused."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.config import RunConfig
from pipeline.errors import MismatchError, SettingsError, SourceError, StorageError
from pipeline.raster.mosaic import Mosaic
from pipeline.segment import run
from pipeline.segment.audit import audit_stored
from pipeline.segment.each import one_config_each
from pipeline.segment.nightly.rules import missing_of
from pipeline.segment.plan_table import plan_table
from pipeline.segment.run import plan_only, segment
from pipeline.settings import load_settings
from pipeline.storage import Folder
from tests.pipeline.segment.nights import HEIGHT, WIDTH, Product, computed
from tests.pipeline.segment.scene import array_objects, settings, write_scene


@pytest.fixture(scope="module")
def first_night(model, tmp_path_factory):
    """A product after its first night, and that night's report; to be copied, not written to."""
    product = Product(str(tmp_path_factory.mktemp("nights")), str(model))
    return product, product.night()


@pytest.fixture
def product(first_night, tmp_path):
    """The same in a place of its own; file times stay, so that scenes are still the same."""
    shutil.copytree(first_night[0].root, tmp_path / "p", copy_function=shutil.copy2)
    for file in Path(tmp_path, "p", "product").rglob("*.json"):
        if file.name in ("latest.json", "identities.json"):
            file.write_text(file.read_text().replace(first_night[0].root, str(tmp_path / "p")))
    there = Product.__new__(Product)
    there.root, there.model = str(tmp_path / "p"), first_night[0].model
    there.folder = Folder.at(f"{there.root}/product")
    return there


@pytest.fixture(scope="module")
def second_night_from_scratch(first_night, tmp_path_factory) -> dict[str, bytes]:
    """The arrays of the night on which the scene below was replaced, with nothing to copy from."""
    product = Product(str(tmp_path_factory.mktemp("scratch")), first_night[0].model)
    product.put("bottom.tif", seed=30)
    assert computed(product.night()) == 3
    return array_objects(product.latest()["url"])


def test_the_first_night_computes_all_and_is_published(first_night):
    product, report = first_night
    assert report["status"] == "complete"
    assert report["incremental"]["reasons"] == {"first": 3}
    assert report["incremental"]["previous"] is None
    latest = product.latest()
    assert list(latest) == ["version", "url", "run", "published", "previous"]
    assert latest["url"] == f"{product.folder.url}/versions/{latest['version']}"
    assert latest["previous"] is None
    assert latest["run"] == Mosaic.open(latest["url"]).attributes["run_id"]
    assert datetime.fromisoformat(latest["published"]).tzinfo == UTC
    assert Mosaic.open(latest["url"]).grid.window.shape == (HEIGHT, WIDTH)


def test_nothing_changed_computes_nothing_and_writes_nothing(product):
    before = {file: file.stat().st_mtime_ns for file in Path(product.root).rglob("*") if file.is_file()}
    report = product.night()
    assert report["status"] == "complete"
    assert computed(report) == 0
    assert report["incremental"]["unchanged"]
    assert report["audit"]["objects"] > 0, "an unchanged mosaic is audited all the same"
    assert before == {
        file: file.stat().st_mtime_ns for file in Path(product.root).rglob("*") if file.is_file()
    }


def test_a_published_mosaic_that_was_damaged_is_mended(product):
    kept = array_objects(product.latest()["url"])
    damaged = Path(product.latest()["url"], "classes", "c", "0", "0")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    pointer = product.latest()
    report = product.night()
    assert report["status"] == "complete"
    assert computed(report) == 1
    assert array_objects(pointer["url"]) == kept
    assert product.latest() == pointer


def test_one_scene_changed_computes_only_its_blocks(product, second_night_from_scratch):
    earlier = product.latest()
    product.put("bottom.tif", seed=30)
    plan = plan_only(RunConfig.model_validate(product.document()))
    report = product.night()
    told = report["incremental"]
    assert computed(report) == 2, "rows 2030 to 2094 lie in the last two of three blocks"
    assert report["blocks"] == {"total": 3, "done": 2, "empty": 0, "failed": 0, "skipped": 1}
    assert (told["copied"], told["recomputed"], told["reasons"]) == (1, 2, {"scenes": 2})
    assert [(one["change"], Path(one["url"]).name, one["blocks"]) for one in told["scenes"]] == [
        ("changed", "bottom.tif", 2)
    ]
    assert {name: told[name] for name in plan["incremental"]} == plan["incremental"], "--plan said so before"
    latest = product.latest()
    assert latest["previous"] == earlier["version"]
    records = product.records(latest["version"])
    assert records["r00000c00000"]["copied_from"] == earlier["version"]
    assert records["r00000c00000"]["state"] == "done"
    assert not any("copied_from" in records[block] for block in ("r00001c00000", "r00002c00000"))
    assert array_objects(latest["url"]) == second_night_from_scratch
    assert audit_stored(latest["url"]).is_complete
    assert product.versions() == {earlier["version"], latest["version"]}


def test_the_report_says_what_changed(product):
    before = Mosaic.open(product.latest()["url"]).classes()
    product.put("bottom.tif", seed=30)
    report = product.night(incremental={"change_layer": True})
    url = product.latest()["url"]
    after = Mosaic.open(url).classes()
    changes = report["incremental"]["changes"]
    assert changes["pixels_changed"] == int((before != after).sum()) > 0
    for index, one in enumerate(changes["classes"]):
        assert one["before"] == int((before == index).sum())
        assert one["after"] == int((after == index).sum())
        assert one["gained"] == int(((after == index) & (before != index)).sum())
        assert one["lost"] == int(((before == index) & (after != index)).sum())
    names = Mosaic.open(url).layout.class_names
    for move in changes["transitions"]:
        moved = (before == names.index(move["from"])) & (after == names.index(move["to"]))
        assert move["pixels"] == int(moved.sum()) > 0
    layer = xr.open_zarr(url, group="changes", chunks=None)
    changed = before != after
    assert np.array_equal(layer["from"].fillna(255).values, np.where(changed, before, 255))
    assert np.array_equal(layer["to"].fillna(255).values, np.where(changed, after, 255))
    assert layer["from"].dims == ("y", "x")
    assert float(layer.y[0]) == float(xr.open_zarr(url, chunks=None).y[0])
    page = Folder.at(f"{url}.run").read("report.html").decode()
    assert "What changed" in page
    assert f"{changes['pixels_changed']:,}" in page
    assert "bottom.tif" in page


def test_a_new_and_a_lost_scene_are_named(product):
    product.put("extra.tif", row=300, seed=9)
    Path(product.root, "scenes", "bottom.tif").unlink()
    told = product.night()["incremental"]
    assert {(one["change"], Path(one["url"]).name) for one in told["scenes"]} == {
        ("added", "extra.tif"), ("removed", "bottom.tif"),
    }  # fmt: skip
    assert told["recomputed"] == 3


def test_another_model_computes_all_and_the_old_version_stays(product, other_model):
    earlier = product.latest()
    kept = array_objects(earlier["url"])
    report = product.night(model={"url": str(other_model)})
    assert computed(report) == 3
    assert report["incremental"]["reasons"] == {"model": 3}
    assert report["incremental"]["fields"] == ["model.sha256"]
    assert array_objects(earlier["url"]) == kept
    assert product.latest()["previous"] == earlier["version"]


def test_going_back_to_the_old_model_computes_nothing(product, other_model):
    earlier = product.latest()["version"]
    later = product.night(model={"url": str(other_model)})["incremental"]["version"]
    report = product.night()
    assert computed(report) == 0
    assert product.latest()["version"] == earlier
    assert product.latest()["previous"] == later


def test_a_scene_that_comes_back_brings_its_version_back(product):
    earlier = product.latest()["version"]
    scene = Path(product.root, "scenes", "bottom.tif")
    scene.rename(Path(product.root, "bottom.tif"))
    assert product.night()["incremental"]["reasons"] == {"scenes": 2}
    Path(product.root, "bottom.tif").rename(scene)
    report = product.night()
    assert computed(report) == 0
    assert report["incremental"]["reasons"] == {"earlier": 1, "scenes": 2}
    assert product.latest()["version"] == earlier


def test_another_setting_is_named(product):
    told = product.night(inference={"flips": ["h"]})["incremental"]
    assert told["reasons"] == {"settings": 3}
    assert told["fields"] == ["inference.flips"]


def test_what_was_left_to_choose_is_chosen_as_before(product):
    """A cluster of another size must not make every block stale."""
    product.put("bottom.tif", seed=30)
    report = product.night(block={"size_px": "auto"}, inference={"batch": "auto"})
    assert report["incremental"]["copied"] == 1


def test_a_first_night_that_was_cut_short_is_gone_on_with(model, tmp_path, monkeypatch):
    """Another number of workers would choose other threads, and so begin another version."""
    product = Product(str(tmp_path), str(model))
    auto = {"threads_per_worker": "auto"}

    def killed(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "_execute", killed)
        with pytest.raises(KeyboardInterrupt):
            product.night(compute=auto)
    (begun,) = product.versions()
    report = product.night(compute={**auto, "workers": 2})
    assert product.versions() == {begun} == {report["incremental"]["version"]}
    assert product.latest()["version"] == begun


def test_a_damaged_copy_is_computed(product, second_night_from_scratch):
    product.put("bottom.tif", seed=30)
    damaged = Path(product.latest()["url"], "classes", "c", "0", "0")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    report = product.night()
    assert report["status"] == "complete"
    assert report["incremental"]["reasons"] == {"scenes": 2, "damaged": 1}
    assert array_objects(product.latest()["url"]) == second_night_from_scratch


def test_a_copy_whose_source_is_gone_is_computed(product, second_night_from_scratch):
    product.put("bottom.tif", seed=30)
    Path(product.latest()["url"], "classes", "c", "0", "0").unlink()
    report = product.night()
    assert report["status"] == "complete"
    assert computed(report) == 3
    assert report["incremental"]["changes"]["not_compared"] == {}
    assert array_objects(product.latest()["url"]) == second_night_from_scratch


def test_a_block_that_cannot_be_compared_does_not_stop_the_night(product):
    product.put("bottom.tif", seed=30)
    damaged = Path(product.latest()["url"], "classes", "c", "1", "0")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    report = product.night()
    assert report["status"] == "complete"
    assert list(report["incremental"]["changes"]["not_compared"]) == ["r00001c00000"]


def test_old_versions_go_but_never_the_latest_two(product):
    names = [product.latest()["version"]]
    for seed in (30, 31, 32):
        product.put("top.tif", seed=seed)
        report = product.night(incremental={"keep": 2})
        names.append(product.latest()["version"])
    assert report["incremental"]["pruned"] == [names[1]]
    assert product.versions() == set(names[-2:])
    assert audit_stored(product.latest()["url"]).is_complete


def test_a_version_that_was_never_finished_goes_when_nobody_touches_it(product):
    ruin = "v-0123456789abcdef"
    product.folder.child(f"versions/{ruin}.run").write("plan.json", b"{}")
    product.folder.child(f"versions/{ruin}").write("zarr.json", b"{}")
    product.folder.child("versions/of-somebody-else").write("zarr.json", b"{}")
    assert product.night()["incremental"]["pruned"] == [], "somebody may be at work on it"
    old = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    os.utime(Path(product.folder.url, "versions", f"{ruin}.run", "plan.json"), (old, old))
    assert product.night()["incremental"]["pruned"] == [ruin]
    assert product.versions() == {product.latest()["version"], "of-somebody-else"}


def test_an_ordinary_mosaic_may_be_the_previous_one(model, tmp_path):
    scene = write_scene(tmp_path / "scene.tif", 1040, 100)
    segment(RunConfig.model_validate(settings(scene, model, tmp_path / "old.zarr")))
    document = settings(
        scene, model, tmp_path / "product", incremental={"previous": str(tmp_path / "old.zarr")}
    )
    report = segment(RunConfig.model_validate(document))
    assert computed(report) == 0
    assert report["incremental"]["copied"] == 2
    latest = json.loads((tmp_path / "product" / "latest.json").read_text())
    assert array_objects(latest["url"]) == array_objects(str(tmp_path / "old.zarr"))


def test_what_cannot_be_a_night_is_refused(product):
    def refused(error, match, **groups):
        with pytest.raises(error, match=match):
            product.night(**groups)

    refused(SettingsError, "source.grid.*bounds and origin must still be given", source={
        "grid": {"crs": "EPSG:32633", "resolution": 10},
    })  # fmt: skip
    refused(
        MismatchError, "no .*other/latest.json", incremental={"previous": f"{product.root}/other/latest.json"}
    )
    refused(StorageError, "there is none", incremental={"previous": f"{product.root}/absent.zarr"})
    with pytest.raises(SettingsError, match="never change"):
        segment(RunConfig.model_validate(product.document()), overwrite=True)
    kept = Folder.at(product.root).child("product").read("latest.json")
    product.folder.write("latest.json", b"half a")
    refused(StorageError, "latest.json must be JSON")
    product.folder.write("latest.json", b"{}")
    refused(StorageError, "must hold the words version, url, run, published and previous")
    product.folder.write("latest.json", kept)
    identities = Path(f"{product.latest()['url']}.run", "identities.json")
    identities.write_text("{}")
    refused(StorageError, "identities.json .*must be what a night wrote")
    shutil.rmtree(f"{product.latest()['url']}.run")
    refused(StorageError, "mosaic with its run folder")


def test_a_raster_with_another_grid_than_last_night_is_refused(model, tmp_path):
    scene = write_scene(tmp_path / "scene.tif", 150, 100)
    document = settings(
        scene, model, tmp_path / "product",
        incremental={"previous": str(tmp_path / "product" / "latest.json")},
    )  # fmt: skip
    segment(RunConfig.model_validate(document))
    write_scene(tmp_path / "scene.tif", 180, 100)
    with pytest.raises(MismatchError, match=r"180 × 100 px.*give source.grid"):
        segment(RunConfig.model_validate(document))


def test_the_plan_says_in_a_line_what_tonight_would_do(product):
    def tonight():
        table = plan_table(plan_only(RunConfig.model_validate(product.document())))
        return next(line for line in table.splitlines() if line.startswith("tonight"))

    before = {file: file.stat().st_mtime_ns for file in Path(product.root).rglob("*")}
    assert "nothing changed since" in tonight()
    assert before == {file: file.stat().st_mtime_ns for file in Path(product.root).rglob("*")}
    product.put("bottom.tif", seed=30)
    assert f"2 blocks computed (2 scenes), 1 copied from {product.latest()['version']}" in tonight()


def test_with_each_every_source_has_a_product_of_its_own(model):
    document = settings(
        "unused", model, "s3://b/{stem}", incremental={"previous": "s3://b/{stem}/latest.json"}
    )
    document["source"]["urls"] = ["s3://a/one.tif", "s3://a/two.tif"]
    configs = one_config_each(RunConfig.model_validate(document))
    assert [one.output.url for one in configs] == ["s3://b/one", "s3://b/two"]
    assert [one.incremental.previous for one in configs] == [
        f"{one.output.url}/latest.json" for one in configs
    ]
    ordinary = one_config_each(RunConfig.model_validate({**document, "incremental": {}}))
    assert {one.incremental.previous for one in ordinary} == {None}


def test_the_example_of_a_night_is_valid():
    path = Path(__file__).resolve().parents[3] / "jobs" / "configs" / "nightly_landcover.yaml"
    config = load_settings(RunConfig, config_url=str(path), assignments=[], flags={})
    assert missing_of(config.source.grid) == []
    assert config.incremental.previous == f"{config.output.url}/latest.json"


def test_a_vrt_hides_its_files(model, tmp_path):
    scene = write_scene(tmp_path / "scene.tif", 150, 100)
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="100" rasterYSize="150"><SRS>EPSG:32633</SRS>'
        "<GeoTransform>500000, 10, 0, 5400000, 0, -10</GeoTransform>"
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><Description>{name}</Description><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{scene.name}</SourceFilename><SourceBand>{band}</SourceBand>'
            f"</SimpleSource></VRTRasterBand>"
            for band, name in enumerate(("red", "green", "nir"), 1)
        )
        + "</VRTDataset>"
    )
    document = settings(
        vrt, model, tmp_path / "product",
        incremental={"previous": str(tmp_path / "product" / "latest.json")},
    )  # fmt: skip
    with pytest.raises(SettingsError, match="a VRT hides them"):
        segment(RunConfig.model_validate(document))


def test_files_that_do_not_say_when_they_changed_are_refused(product):
    from dataclasses import replace

    from pipeline.segment.inspect import inspect
    from pipeline.segment.nightly import rules as nightly_rules

    inspection = inspect(RunConfig.model_validate(product.document()))
    silent = [replace(one, etag=None, modified=None) for one in inspection.source.identities]
    unknown = replace(inspection, source=replace(inspection.source, identities=tuple(silent)))
    with pytest.raises(SourceError, match=r"bottom.tif.*give URLs that answer without a signature"):
        nightly_rules.check_nightly(RunConfig.model_validate(product.document()), unknown, None)
