"""Whoever mistyped a path, or forgot the credentials, is told so."""

import pytest

from pipeline.errors import SourceError, StorageError
from pipeline.raster.gdal_bands import open_dataset
from pipeline.raster.mosaic import Mosaic
from pipeline.remedies import about_keys, where_to_look
from pipeline.storage import read_url

OF_OBSTORE = "Error performing PUT http://169.254.169.254/latest/api/token in 6 ms - error sending request"
OF_GDAL = "AWS_SECRET_ACCESS_KEY and AWS_NO_SIGN_REQUEST configuration options not defined, and /x not filled"


def test_a_slip_of_the_pen_is_mended(tmp_path):
    (tmp_path / "scene.tif").touch()
    (tmp_path / "labels.tif").touch()
    assert where_to_look(str(tmp_path / "scen.tif")) == f"did you mean {tmp_path}/scene.tif?"
    assert where_to_look(str(tmp_path / "qqq")) == f"look into {tmp_path}"
    assert where_to_look(str(tmp_path / "no" / "scene.tif")) == f"there is no folder {tmp_path}/no either"


def test_what_is_there_but_is_something_else_is_not_proposed_again(tmp_path):
    assert where_to_look(str(tmp_path)) == f"look into {tmp_path}"


@pytest.mark.parametrize(
    ("url", "said", "word"),
    [
        ("s3://b/x.tif", OF_OBSTORE, "AWS_SKIP_SIGNATURE=true"),
        ("s3://b/x.tif", OF_GDAL, "AWS_ACCESS_KEY_ID"),
        ("gs://b/x.tif", OF_OBSTORE, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://b/x.tif", OF_OBSTORE, "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_forgotten_credentials_are_named(url, said, word):
    assert word in about_keys(url, said)


def test_other_faults_are_not_blamed_on_credentials():
    assert about_keys("s3://b/x.tif", "404 Not Found") is None
    assert about_keys("/x.tif", OF_GDAL) is None


@pytest.mark.parametrize(
    ("read", "fault"), [(read_url, StorageError), (Mosaic.open, StorageError), (open_dataset, SourceError)]
)
def test_every_reader_says_it(read, fault, tmp_path):
    (tmp_path / "land.zarr").mkdir()
    with pytest.raises(fault, match=r"did you mean .*/land\.zarr\?$"):
        read(str(tmp_path / "lnd.zarr"))
