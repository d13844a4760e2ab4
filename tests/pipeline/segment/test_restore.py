"""Readers given an older version back, by the job that the engineer on call would type."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from jobs.nightly_versions import main
from pipeline.errors import MismatchError
from pipeline.latest import read_pointer, switch_pointer
from pipeline.raster.mosaic import Mosaic
from pipeline.segment.nightly import restore as restoring
from tests.pipeline.segment.nights import Product, computed

RUIN = "v-0123456789abcdef"


@pytest.fixture(scope="module")
def two_nights(model, tmp_path_factory):
    """A product after two nights; names of their versions, the older first."""
    product = Product(str(tmp_path_factory.mktemp("restore")), str(model))
    names = []
    for seed in (2, 30):
        product.put("bottom.tif", seed=seed)
        product.night(output={"overviews": False})
        names.append(product.latest()["version"])
    product.folder.child(f"versions/{RUIN}.run").write("plan.json", b"{}")
    return product, *names


@pytest.fixture
def product(two_nights):
    """The same; readers have the newer version again afterwards."""
    product = two_nights[0]
    kept = product.folder.read("latest.json")
    yield two_nights
    product.folder.write("latest.json", kept)


def run(product, *arguments):
    return main(["--product", product.folder.url, *arguments])


def test_versions_are_listed_with_what_they_are_to_readers(product, capsys):
    product, older, newer = product
    assert main(["--product", f"{product.folder.url}/latest.json"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {(line[0], line[-1]) for line in lines} == {
        (newer, "latest"), (older, "before"), (RUIN, "unfinished"),
    }  # fmt: skip
    begun = {line[0]: datetime.fromisoformat(line[2]) for line in lines}
    assert begun[older] < begun[newer]


def test_readers_get_the_older_version_back_and_nothing_else_is_touched(product, capsys):
    product, older, newer = product
    before = {file: file.stat().st_mtime_ns for file in Path(product.root).rglob("*") if file.is_file()}
    assert run(product, "--restore", older, "--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["latest"] == older
    latest = product.latest()
    assert (latest["version"], latest["previous"]) == (older, newer)
    assert latest["url"] == f"{product.folder.url}/versions/{older}"
    assert latest["run"] == Mosaic.open(latest["url"]).attributes["run_id"]
    after = {file: file.stat().st_mtime_ns for file in Path(product.root).rglob("*") if file.is_file()}
    assert {file.name for file in after if after[file] != before[file]} == {"latest.json"}
    again = product.folder.read("latest.json")
    assert run(product, "--restore", older) == 0
    assert product.folder.read("latest.json") == again, "they have it already"


def test_the_next_night_publishes_what_its_settings_say_and_computes_nothing(product):
    product, older, newer = product
    assert run(product, "--restore", older) == 0
    report = product.night(output={"overviews": False})
    assert computed(report) == 0
    assert (product.latest()["version"], product.latest()["previous"]) == (newer, older)


def test_what_is_not_whole_is_refused(product, capsys):
    product, older, _ = product
    kept = product.folder.read("latest.json")

    def refused(words, name):
        assert run(product, "--restore", name) == 2
        assert words in capsys.readouterr().err
        assert product.folder.read("latest.json") == kept

    refused(f"{RUIN} was never finished", RUIN)
    refused(f"there must be a version 'v-1' below {product.folder.url}, but there are v-", "v-1")
    lost = Path(product.folder.url, "versions", older, "classes", "c", "0", "0")
    data = lost.read_bytes()
    lost.unlink()
    try:
        refused("objects of " + older + " are gone, classes/c/0/0 first", older)
    finally:
        lost.write_bytes(data)
    assert main(["--product", f"{product.root}/scenes"]) == 2
    assert "there must be a nightly product" in capsys.readouterr().err


def test_a_night_that_is_published_meanwhile_is_not_undone(product):
    product, older, newer = product
    published = read_pointer(product.folder)
    assert published is not None
    other = replace(published.pointer, version="v-of-tonight", previous=newer)
    assert switch_pointer(product.folder, other, published)
    with pytest.raises(MismatchError, match=f"named {newer} a moment ago and now names v-of-tonight"):
        restoring.restore(product.folder, published, older)
    assert product.latest()["version"] == "v-of-tonight"


def test_a_store_that_repeats_a_request_does_not_refuse_its_own_switch(product, monkeypatch):
    """The first answer was lost, and the repeated request finds the new pointer there already."""
    product, older, _ = product

    def answered_twice(*arguments):
        assert switch_pointer(*arguments)
        return switch_pointer(*arguments)

    monkeypatch.setattr(restoring, "switch_pointer", answered_twice)
    assert run(product, "--restore", older) == 0
    assert product.latest()["version"] == older
