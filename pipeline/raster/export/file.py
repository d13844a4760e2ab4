"""Files that appear when they are finished, locally or in a bucket: readers see the old or the new one."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rasterio.errors import RasterioError

from pipeline.errors import StorageError
from pipeline.storage import Folder, is_local, redact, split_url

logger = logging.getLogger(__name__)


@contextmanager
def workplace(output_url: str) -> Iterator[Path]:
    """A directory for half-made files: beside a local output, so that the finished one is renamed at once."""
    beside = None
    if is_local(output_url):
        if Path(output_url).is_dir():
            raise StorageError(f"--output must be a file, but {output_url} is a directory")
        beside = Path(output_url).parent
        with writing(output_url):
            beside.mkdir(parents=True, exist_ok=True)
    else:
        split_url(output_url)  # refuses a bucket alone before any work is done
    with writing(output_url):
        work = tempfile.TemporaryDirectory(prefix=".export-", dir=beside)
    with work as name:
        yield Path(name)


def put_in_place(finished: Path, output_url: str) -> None:
    """Give a finished file its name."""
    if is_local(output_url):
        finished.replace(output_url)
        return
    parent, name = split_url(output_url)
    logger.info("uploading %d bytes to %s", finished.stat().st_size, redact(output_url))
    Folder(parent).upload(name, finished)


@contextmanager
def writing(output_url: str) -> Iterator[None]:
    """A full disk or a forbidden directory is told as such."""
    try:
        yield
    except (RasterioError, OSError) as error:
        raise StorageError(f"cannot write {redact(output_url)}: {error}") from error
