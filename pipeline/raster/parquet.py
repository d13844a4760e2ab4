"""Parquet files in memory; pyarrow, which reads them, is an extra."""

import importlib
from typing import Any

from pipeline.errors import SettingsError


def open_parquet(data: bytes, what: str, *, extra: str) -> Any:  # noqa: ANN401 - pyarrow is not typed
    """A file, to be read by columns.

    Args:
        data: Its bytes.
        what: What it is to the user, such as "a region in GeoParquet".
        extra: Which of our extras brings pyarrow.
    """
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise SettingsError(
            f"{what} needs pyarrow, which is not installed; install terrazzo[{extra}]"
        ) from error
    return parquet.ParquetFile(arrow.BufferReader(data))
