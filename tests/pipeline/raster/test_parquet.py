"""Parquet files: read where pyarrow is, and the extra that brings it is named where it is not."""

import io
import sys

import pytest

from pipeline.errors import SettingsError
from pipeline.raster.parquet import open_parquet


def test_a_file_is_read_from_memory():
    arrow = pytest.importorskip("pyarrow", reason="pyarrow (the extra 'vectors') is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    parquet.write_table(arrow.table({"url": ["a.tif", "b.tif"]}), file)
    read = open_parquet(file.getvalue(), "an index", extra="stac").read()
    assert read.to_pydict() == {"url": ["a.tif", "b.tif"]}


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"an index needs pyarrow, .* install terrazzo\[stac\]$"):
        open_parquet(b"", "an index", extra="stac")
