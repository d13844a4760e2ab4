"""The registry: versions stay, the champion is switched once, and only by who knows the one before."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import MismatchError, StorageError
from pipeline.registry import Registry, find_model


@pytest.fixture(params=["local", "bucket"])
def registry(request, tmp_path):
    if request.param == "local":
        return Registry.at(str(tmp_path / "models"))
    return Registry.at(f"{request.getfixturevalue('s3_bucket').url}/models")


def test_an_empty_place_is_a_registry_without_a_champion(registry):
    assert registry.holder() is None
    assert registry.versions() == []
    assert registry.records() == {}


def test_the_champion_is_who_was_promoted_last(registry):
    registry.promote("v-1", "a" * 64, None)
    first = registry.holder()
    registry.promote("v-2", "b" * 64, first)
    champion = registry.holder().champion
    assert (champion.version, champion.sha256, champion.previous) == ("v-2", "b" * 64, "v-1")
    assert champion.promoted > first.champion.promoted or champion.promoted == first.champion.promoted


def test_who_was_compared_with_an_older_champion_does_not_take_its_place(registry):
    registry.promote("v-1", "a" * 64, None)
    seen = registry.holder()
    registry.promote("v-2", "b" * 64, seen)
    with pytest.raises(MismatchError, match=r"v-3 was compared with v-1, but .* is v-2 by now"):
        registry.promote("v-3", "c" * 64, seen)
    with pytest.raises(MismatchError, match="compared with nothing"):
        registry.promote("v-3", "c" * 64, None)
    assert registry.holder().champion.version == "v-2"


def test_of_many_who_want_to_be_first_one_is(registry):
    def run(number):
        try:
            registry.promote(f"v-{number}", "a" * 64, None)
        except MismatchError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(run, range(8)))
    assert won.count(True) == 1
    assert registry.holder().champion.version == f"v-{won.index(True)}"


def test_only_finished_versions_have_a_record(registry):
    registry.version_folder("v-1").child("model").write("model.json", b"{}")
    registry.version_folder("v-2").child("model").write("model.json", b"{}")
    registry.write_record("v-2", {"promoted": False})
    assert registry.versions() == ["v-1", "v-2"]
    assert registry.records() == {"v-2": {"promoted": False}}
    assert registry.record("v-1") is None


def test_a_registry_stands_for_its_champions_model(registry):
    url = registry.folder.url
    assert find_model(url) == (url, None)
    champion = registry.promote("v-1", "a" * 64, None)
    assert find_model(url) == (f"{url}/versions/v-1/model", champion)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ("[]", "must hold version, sha256, promoted and previous, got list"),
        ("7", "must hold version, sha256, promoted and previous, got int"),
        ('{"version": "v-1"}', "must hold version, sha256, promoted and previous, got .'version'."),
        (json.dumps({"version": 1, "sha256": "a", "promoted": "", "previous": None}), "must be words"),
    ],
)
def test_a_damaged_pointer_is_no_empty_registry(tmp_path, text, message):
    (tmp_path / "champion.json").write_text(text)
    with pytest.raises(StorageError, match=message):
        Registry.at(str(tmp_path)).holder()
