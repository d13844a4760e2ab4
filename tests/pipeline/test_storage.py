"""Objects on disks and in buckets: the same behaviour, and errors that say what to do and no secret."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline import storage
from pipeline.errors import SourceError, StorageError
from pipeline.raster.gdal_source import inspect_raster
from pipeline.storage import (
    Folder,
    credentials,
    from_gdal_path,
    gdal_path,
    join_url,
    normalise_url,
    read_url,
    redact,
    redact_text,
    split_url,
    write_url,
)


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    """An empty folder; what is tested with it must hold in both places."""
    if request.param == "local":
        return Folder.at(tmp_path / "some where" / "deep")
    return Folder.at(f"{request.getfixturevalue('s3_bucket').url}/some where/deep")


class TestUrls:
    def test_a_relative_path_becomes_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert normalise_url("a/b.tif") == str(tmp_path / "a" / "b.tif")

    def test_home_file_urls_and_trailing_slashes_are_understood(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert normalise_url("~/a/") == str(tmp_path / "a")
        assert normalise_url("file:///a/b") == "/a/b"
        assert normalise_url("s3://bucket/a/") == "s3://bucket/a"

    def test_an_unknown_scheme_names_those_that_are_known(self):
        with pytest.raises(StorageError, match=r"begin with s3://, gs://, az://.*got 'ftp://host/a'"):
            normalise_url("ftp://user:password@host/a")

    def test_an_empty_url_is_not_the_current_directory(self):
        """``--output "$OUT" --overwrite`` with OUT unset must not delete where one stands."""
        with pytest.raises(StorageError, match="got an empty one"):
            normalise_url("")

    @pytest.mark.parametrize("url", ["s3://bucket/a/b.tif", "/a/b.tif", "https://host/a/b.tif"])
    def test_split_and_join_are_inverse(self, url):
        assert join_url(*split_url(url)) == url

    def test_a_bucket_alone_names_no_object(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(StorageError, match="must name something in the bucket, got s3://bucket"):
            write_url("s3://bucket", b"never")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("/a/b.tif", "/a/b.tif"),
            ("s3://bucket/a.tif", "/vsis3/bucket/a.tif"),
            ("gs://bucket/a.tif", "/vsigs/bucket/a.tif"),
            ("az://container/a.tif", "/vsiaz/container/a.tif"),
            ("https://host/a.tif", "/vsicurl/https://host/a.tif"),
        ],
    )
    def test_gdal_is_told_the_same_place(self, url, expected):
        assert gdal_path(url) == expected
        assert from_gdal_path(expected) == url

    def test_what_only_gdal_can_find_has_no_url(self):
        assert from_gdal_path("/vsizip//a/b.zip/c.tif") is None


class TestSecrets:
    def test_a_url_loses_user_password_and_signature(self):
        assert (
            redact("https://user:pw@host:8080/a/b.tif?X-Amz-Signature=abc#x") == "https://host:8080/a/b.tif"
        )
        assert redact("s3://bucket/a.tif") == "s3://bucket/a.tif"
        assert redact("/a?b") == "/a?b"

    def test_a_message_loses_them_too_and_the_values_of_credentials(self, monkeypatch):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-eight")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-many")
        said = redact_text(
            "GET https://user:pw@host/a.tif?X-Amz-Signature=abc failed: secret-of-eight; 'token-of-many'"
        )
        assert said == "GET https://host/a.tif failed: ***; '***'"

    def test_a_credential_that_is_a_plain_word_does_not_spoil_messages(self, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        assert redact_text("the latest test") == "the latest test"

    def test_only_credential_variables_travel(self, monkeypatch):
        monkeypatch.setenv("AZURE_STORAGE_KEY", "k")
        monkeypatch.setenv("SOMETHING_ELSE", "x")
        assert credentials()["AZURE_STORAGE_KEY"] == "k"
        assert not [name for name in credentials() if name in ("SOMETHING_ELSE", "PATH", "HOME")]

    def test_a_signed_address_that_fails_is_told_without_its_signature(self, monkeypatch):
        monkeypatch.setattr(storage, "RETRIES", 0)
        url = "http://user:pw-of-mine@127.0.0.1:9/a/b.tif?X-Amz-Signature=deadbeef"
        for act in (lambda: read_url(url), lambda: inspect_raster(url)):
            with pytest.raises((StorageError, SourceError)) as caught:
                act()
            assert "127.0.0.1:9/a" in str(caught.value)
            for secret in ("pw-of-mine", "deadbeef", "Signature"):
                assert secret not in str(caught.value)


class TestFolder:
    def test_what_is_written_is_read(self, folder):
        folder.write("a/b c.json", b"12345")
        assert folder.read("a/b c.json") == b"12345"
        assert folder.read_range("a/b c.json", 1, 3) == b"234"
        assert folder.child("a").read("b c.json") == b"12345"
        assert read_url(f"{folder.url}/a/b c.json") == b"12345"
        assert Folder.at(folder.url) == folder

    def test_odd_names_survive(self, folder):
        for name in ("50%.txt", "50%25.txt", "a+b&c=d.txt", "grün.txt", "#1 done.txt"):
            folder.write(name, name.encode())
        assert {found.key for found in folder.listing()} == {
            "50%.txt", "50%25.txt", "a+b&c=d.txt", "grün.txt", "#1 done.txt"
        }  # fmt: skip
        for found in folder.listing():
            assert folder.read(found.key) == found.key.encode()

    def test_writing_again_replaces(self, folder):
        folder.write("x", b"old and long")
        folder.write("x", b"new")
        assert folder.read("x") == b"new"

    def test_what_is_not_there(self, folder):
        for name in ("absent", "absent/too"):
            with pytest.raises(FileNotFoundError):
                folder.read(name)
            assert folder.head(name) is None
            assert not folder.exists(name)
        assert list(folder.listing()) == []
        assert folder.is_empty()
        with pytest.raises(StorageError, match=r"there must be a file at .*/absent; there is none"):
            read_url(f"{folder.url}/absent")

    def test_looking_creates_nothing(self, tmp_path):
        folder = Folder.at(tmp_path / "new")
        assert folder.is_empty()
        assert folder.head("x") is None
        assert not (tmp_path / "new").exists()

    def test_a_listing_tells_sizes_and_keeps_to_its_folder(self, folder):
        folder.write("a/1", b"1")
        folder.write("a/2/3", b"123")
        folder.write("ab/4", b"1")
        Folder(folder.url + ".run").write("x", b"1")
        assert {(found.key, found.size_bytes) for found in folder.listing()} == {
            ("a/1", 1), ("a/2/3", 3), ("ab/4", 1)
        }  # fmt: skip
        assert {found.key for found in folder.listing("a/")} == {"a/1", "a/2/3"}
        head = folder.head("a/2/3")
        assert head is not None
        assert head.size_bytes == 3

    def test_a_new_version_is_seen(self, folder):
        folder.write("x", b"1")
        before = folder.head("x")
        folder.write("x", b"22")
        after = folder.head("x")
        assert before is not None
        assert after is not None
        assert (before.size_bytes, before.etag) != (after.size_bytes, after.etag)

    def test_create_has_one_winner(self, folder):
        """Eight claim the same name at once; the winner's bytes stay."""
        start = threading.Barrier(8)

        def claim(number):
            start.wait()
            return folder.create("claim", b"%d" % number)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(claim, range(8)))
        assert sum(won) == 1
        assert folder.read("claim") == b"%d" % won.index(True)
        assert not folder.create("claim", b"late")

    def test_deleting_removes_what_is_there_and_forgives_what_is_not(self, folder):
        for name in "abc":
            folder.write(name, b"1")
        folder.delete([])
        folder.delete(["absent", "a", "b"])
        folder.delete(["a"])
        assert [found.key for found in folder.listing()] == ["c"]

    def test_deleting_all_spares_the_neighbours(self, folder):
        folder.write("a/1", b"1")
        neighbour = Folder(folder.url + ".run")
        neighbour.write("plan.json", b"1")
        folder.delete_all()
        assert folder.is_empty()
        assert neighbour.read("plan.json") == b"1"
        folder.delete_all()  # nothing left is no error


class TestSignedAddresses:
    @pytest.fixture
    def address(self):
        """Of a file that is given to whoever sends the signature as it was made."""

        class Guarded(BaseHTTPRequestHandler):
            def do_GET(self):
                allowed = self.path == "/run.yaml?X-Signature=a%2Fb%3D"
                self.send_response(200 if allowed else 403)
                self.send_header("Last-Modified", formatdate(0, usegmt=True))
                self.send_header("Content-Length", "5" if allowed else "0")
                self.end_headers()
                self.wfile.write(b"a: 1\n" if allowed else b"")

            def log_message(self, *_):
                """Silence: pytest shows enough."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}/run.yaml"
            server.shutdown()

    def test_what_is_signed_is_read(self, address):
        assert read_url(f"{address}?X-Signature=a%2Fb%3D") == b"a: 1\n"

    def test_a_wrong_signature_is_refused_and_not_told(self, address):
        with pytest.raises(StorageError, match=r"^cannot read http://127.0.0.1:\d+/run.yaml: ") as caught:
            read_url(f"{address}?X-Signature=hush")
        assert "hush" not in str(caught.value)


class TestLocalFaults:
    def test_what_a_link_leads_to_is_not_deleted(self, tmp_path):
        Folder.at(tmp_path / "theirs").write("x", b"1")
        (tmp_path / "link").symlink_to(tmp_path / "theirs")
        with pytest.raises(StorageError, match=r"cannot delete .*/link: "):
            Folder.at(tmp_path / "link").delete_all()
        assert (tmp_path / "theirs" / "x").exists()

    def test_a_directory_that_cannot_be_made_is_explained(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match=r"cannot write 'x' to .*/file/below: "):
            Folder.at(tmp_path / "file" / "below").write("x", b"1")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_forbidden_directory_is_explained(self, tmp_path):
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(StorageError, match=r"cannot write 'x' to "):
            Folder.at(tmp_path / "locked").write("x", b"1")
