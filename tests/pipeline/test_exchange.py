"""Objects that are replaced only if they are as they were, and objects taken over: on files and on S3."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import PreconditionError

from pipeline.errors import StorageError
from pipeline.exchange import children, read_revision, replace, take_over
from pipeline.latest import Pointer, is_pointer, read_pointer, resolve_latest, switch_pointer
from pipeline.storage import Folder

POINTER = Pointer("v-1", "s3://b/p/versions/v-1", "run", "2026-11-21T03:00:00+00:00", None)


@pytest.fixture(params=["files", "bucket"])
def folder(request, tmp_path) -> Folder:
    if request.param == "files":
        return Folder.at(tmp_path / "place")
    return Folder.at(request.getfixturevalue("s3_bucket").url + "/place")


def test_of_many_who_replace_the_same_state_one_succeeds(folder):
    assert read_revision(folder, "pointer") is None
    assert replace(folder, "pointer", b"0", None)
    assert not replace(folder, "pointer", b"lost", None)
    for turn in range(1, 4):
        seen = read_revision(folder, "pointer")
        assert seen is not None
        states = [f"{turn}.{attempt}".encode() for attempt in range(8)]
        with ThreadPoolExecutor(8) as threads:
            won = list(
                threads.map(
                    replace, *zip(*[(folder, "pointer", state, seen) for state in states], strict=True)
                )
            )
        assert sum(won) == 1
        assert folder.read("pointer") == states[won.index(True)]


def test_a_store_that_compares_etags_without_quotes_is_understood(s3_bucket, monkeypatch):
    """Ceph's gateway tells ETags with quotes and takes them without."""
    folder = Folder(f"{s3_bucket.url}/ceph")
    folder.write("pointer", b"1")
    put = obstore.put

    def as_ceph_does(store, key, data, *, mode):
        if mode["e_tag"].startswith('"'):
            raise PreconditionError("412")
        return put(store, key, data, mode={"e_tag": f'"{mode["e_tag"]}"'})

    seen = read_revision(folder, "pointer")
    monkeypatch.setattr(obstore, "put", as_ceph_does)
    assert replace(folder, "pointer", b"2", seen)
    assert not replace(folder, "pointer", b"3", seen)
    assert folder.read("pointer") == b"2"


def test_a_store_without_conditional_writes_is_refused(s3_bucket, monkeypatch):
    folder = Folder(f"{s3_bucket.url}/old")
    folder.write("pointer", b"1")
    seen = read_revision(folder, "pointer")

    def refuse(*_arguments, **_named):
        raise PreconditionError("412")

    monkeypatch.setattr(obstore, "put", refuse)
    with pytest.raises(StorageError, match="must know conditional writes"):
        replace(folder, "pointer", b"2", seen)


def test_what_was_deleted_meanwhile_is_not_replaced(folder):
    folder.write("pointer", b"1")
    seen = read_revision(folder, "pointer")
    folder.delete(["pointer"])
    assert not replace(folder, "pointer", b"2", seen)
    assert not folder.exists("pointer")


def test_an_object_is_taken_over_and_both_live_their_own_lives(folder):
    source, target = folder.child("a"), folder.child("b")
    source.write("deep/name", b"first")
    take_over(source, target, "deep/name")
    source.write("deep/name", b"second")
    assert target.read("deep/name") == b"first"
    take_over(source, target, "deep/name")
    assert target.read("deep/name") == b"second"
    with pytest.raises(FileNotFoundError):
        take_over(source, target, "absent")
    assert children(folder) == ["a", "b"]
    assert children(folder.child("nowhere")) == []


def test_files_are_linked_and_stores_of_different_kinds_copied(s3_bucket, tmp_path):
    bucket, local, other = Folder(f"{s3_bucket.url}/x"), Folder.at(tmp_path / "x"), Folder.at(tmp_path / "y")
    local.write("key", b"bytes")
    take_over(local, other, "key")
    assert (tmp_path / "x" / "key").samefile(tmp_path / "y" / "key")
    take_over(local, bucket, "key")
    assert bucket.read("key") == b"bytes"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")  # noqa: S108
def test_between_file_systems_bytes_are_copied(tmp_path):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        source, target = Folder.at(elsewhere), Folder.at(tmp_path / "here")
        source.write("key", b"bytes")
        take_over(source, target, "key")
        assert target.read("key") == b"bytes"


def test_a_pointer_is_switched_from_the_state_that_was_read(folder):
    assert read_pointer(folder) is None
    assert switch_pointer(folder, POINTER, None)
    seen = read_pointer(folder)
    assert seen is not None
    assert seen.pointer == POINTER
    second = Pointer("v-2", "url", "run", "now", "v-1")
    assert switch_pointer(folder, second, seen)
    assert not switch_pointer(folder, Pointer("v-3", "url", "run", "now", "v-1"), seen)
    current = read_pointer(folder)
    assert current is not None
    assert current.pointer == second


def test_a_url_of_a_pointer_means_the_mosaic_that_it_names(folder):
    pointer = f"{folder.url}/latest.json"
    assert is_pointer(pointer)
    assert not is_pointer(f"{folder.url}/notlatest.json")
    assert resolve_latest(f"{folder.url}/mosaic.zarr") == f"{folder.url}/mosaic.zarr"
    with pytest.raises(StorageError, match="nothing is published yet"):
        resolve_latest(pointer)
    switch_pointer(folder, POINTER, None)
    assert resolve_latest(pointer) == POINTER.url
