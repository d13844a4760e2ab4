"""Buckets that fail, by a message without secrets; and one set of variables for both who reach them."""

import time

import numpy as np
import pytest
import rasterio

from pipeline import storage
from pipeline.errors import SourceError, StorageError
from pipeline.raster.gdal_source import GdalSource, GdalSpec, inspect_raster
from pipeline.raster.window import Window
from pipeline.storage import (
    Folder,
    gdal_options,
    read_url,
    write_url,
)

UNREACHABLE = "http://127.0.0.1:9"  # the discard port: nothing answers


class TestS3Faults:
    """Errors that name what was done and where, in a line, and no secret."""

    def _refusal(self, act):
        with pytest.raises((StorageError, SourceError)) as caught:
            act()
        return str(caught.value)

    def _is_fit_to_print(self, message):
        return not any(bad in message for bad in ("not-a-real-secret", "AKIAEXAMPLE", "\n", "<?xml"))

    def _every_access(self, folder):
        return {
            "read": lambda: folder.read("x"),
            "look up": lambda: folder.head("x"),
            "write": lambda: folder.write("x", b"1"),
            "write ": lambda: folder.create("x", b"1"),
            "list": lambda: list(folder.listing()),
            "delete": lambda: folder.delete(["x"]),
        }

    def test_wrong_credentials(self, s3_bucket):
        folder = Folder.at(f"{s3_bucket.url}/p")
        folder.write("x", b"1")
        s3_bucket.check_credentials()
        for action, act in self._every_access(folder).items():
            message = self._refusal(act)
            assert f"cannot {action.strip()}" in message
            assert "s3://terrazzo-tests/p" in message
            assert "AWS_*" in message
            assert self._is_fit_to_print(message), message
        message = self._refusal(lambda: read_url(f"{folder.url}/x"))
        assert "InvalidAccessKeyId" in message
        assert self._is_fit_to_print(message), message
        message = self._refusal(lambda: inspect_raster(f"{folder.url}/x.tif"))
        assert "cannot open s3://terrazzo-tests/p/x.tif" in message
        assert self._is_fit_to_print(message), message

    def test_an_endpoint_that_nobody_answers_at(self, s3_bucket, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", UNREACHABLE.replace("//", "//someone:not-a-real-secret@"))
        storage._open_store.cache_clear()
        for action, act in self._every_access(Folder.at(f"{s3_bucket.url}/p")).items():
            message = self._refusal(act)
            assert f"cannot {action.strip()}" in message
            assert "s3://terrazzo-tests/p" in message
            assert "network" in message
            assert self._is_fit_to_print(message), message

    def test_gdal_gives_up_on_it_too(self, s3_bucket, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", UNREACHABLE)
        message = self._refusal(lambda: inspect_raster(f"{s3_bucket.url}/x.tif"))
        assert "cannot open s3://" in message
        assert self._is_fit_to_print(message), message

    def test_a_bucket_that_does_not_exist(self, s3_bucket):
        absent = Folder.at("s3://terrazzo-absent/p")
        assert absent.head("x") is None
        with pytest.raises(FileNotFoundError):
            absent.read("x")
        for action, act in (
            ("cannot write 'x'", lambda: absent.write("x", b"1")),
            ("cannot write 'x'", lambda: absent.create("x", b"1")),
            ("cannot list", lambda: list(absent.listing())),
        ):
            message = self._refusal(act)
            assert action in message
            assert "NoSuchBucket" in message
            assert self._is_fit_to_print(message), message
        assert s3_bucket.name  # the server is there: it is the bucket that is not

    def test_a_setting_that_makes_no_sense(self, s3_bucket, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "no address at all")
        storage._open_store.cache_clear()
        for act in (
            lambda: Folder.at(f"{s3_bucket.url}/p").read("x"),
            lambda: inspect_raster("s3://a/b.tif"),
        ):
            message = self._refusal(act)
            assert "AWS_ENDPOINT_URL must be an address" in message
            assert "'no address at all'" in message
            assert self._is_fit_to_print(message), message


class TestOneSetOfVariables:
    def _raster(self, path):
        samples = np.arange(3 * 70 * 90, dtype=np.uint16).reshape(3, 70, 90)
        profile = {"driver": "GTiff", "count": 3, "height": 70, "width": 90, "dtype": "uint16"}
        with rasterio.open(path, "w", tiled=True, blockxsize=32, blockysize=32, **profile) as dataset:
            dataset.write(samples)
        return samples, path.read_bytes()

    def _read(self, url):
        source = GdalSource(GdalSpec(url, (1, 2, 3), None))
        try:
            return source.read(Window(0, 0, 70, 90)).samples_CHW
        finally:
            source.close()

    def test_obstore_and_gdal_reach_the_same_bucket(self, s3_bucket, tmp_path):
        samples, data = self._raster(tmp_path / "a.tif")
        url = f"{s3_bucket.url}/below/one of them.tif"
        write_url(url, data)
        assert read_url(url) == data
        began = time.monotonic()
        np.testing.assert_array_equal(self._read(url), samples)
        assert time.monotonic() - began < 20, "sidecar files that are not there must not be asked for again"
        identity = inspect_raster(url).identities[0]
        assert identity.size_bytes == len(data)
        assert identity.etag

    @pytest.mark.parametrize("variable", ["AWS_NO_SIGN_REQUEST", "AWS_SKIP_SIGNATURE"])
    def test_both_read_a_public_bucket_without_credentials(self, s3_bucket, tmp_path, monkeypatch, variable):
        """By GDAL's name for it or by obstore's: one is enough."""
        samples, data = self._raster(tmp_path / "a.tif")
        s3_bucket.put_public("public.tif", data)
        write_url(f"{s3_bucket.url}/private.tif", data)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv(variable, "YES")
        storage._open_store.cache_clear()
        assert read_url(f"{s3_bucket.url}/public.tif") == data
        np.testing.assert_array_equal(self._read(f"{s3_bucket.url}/public.tif"), samples)
        with pytest.raises(StorageError, match="403"):
            read_url(f"{s3_bucket.url}/private.tif")
        with pytest.raises(SourceError, match="cannot open"):
            inspect_raster(f"{s3_bucket.url}/private.tif")

    @pytest.mark.parametrize(
        ("endpoint", "host", "https"),
        [("http://10.0.0.1:9000", "10.0.0.1:9000", "NO"), ("https://s3.example/x/", "s3.example/x", "YES")],
    )
    def test_gdal_is_told_the_endpoint(self, monkeypatch, endpoint, host, https):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        monkeypatch.delenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", raising=False)
        options = gdal_options(cache_bytes=1, num_threads=3)
        assert options["AWS_S3_ENDPOINT"] == host
        assert options["AWS_HTTPS"] == https
        assert options["AWS_VIRTUAL_HOSTING"] == "NO"
        assert options["GDAL_NUM_THREADS"] == 3

    def test_without_an_endpoint_gdal_keeps_its_own(self, monkeypatch):
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_NO_SIGN_REQUEST", "AWS_SKIP_SIGNATURE"):
            monkeypatch.delenv(name, raising=False)
        options = gdal_options(cache_bytes=1, num_threads=1)
        said = {name: value for name, value in options.items() if name.startswith("AWS")}
        assert said == {"AWS_NO_SIGN_REQUEST": "NO"}  # said aloud, lest an earlier YES live on in GDAL
