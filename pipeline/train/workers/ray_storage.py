"""A run's folder as Ray Train's own storage sees it: the same place, with the same ``AWS_*`` variables.

Ray keeps nothing there that matters (see ``trainer``). It does leave a token that every worker must find
before training begins: whoever trains on several nodes into a folder of one of them hears of it at once.
"""

import os
from typing import Any

import pyarrow.fs

from pipeline.errors import SettingsError
from pipeline.storage import Folder, gdal_options, is_local, redact


def ray_storage(folder: Folder) -> tuple[str, Any]:
    """The folder's path, and the file system that it is a path of; None for this machine's own.

    Args:
        folder: Any folder of a run.
    """
    if is_local(folder.url):
        return folder.url, None
    scheme, path = folder.url.split("://", 1)
    if scheme == "s3":
        return path, _s3()
    if scheme == "gs":
        return path, pyarrow.fs.GcsFileSystem()
    raise SettingsError(
        f"training on Ray writes to a path, s3:// or gs://, got {redact(folder.url)}; choose another "
        "--output, or train in one process with compute.executor local"
    )


def _s3() -> Any:  # noqa: ANN401 - pyarrow is not typed
    """S3 as obstore and GDAL see it; keys travel inside, since the controller has no variables of ours."""
    said = gdal_options(cache_bytes=0, num_threads=1)
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    is_anonymous = said["AWS_NO_SIGN_REQUEST"] == "YES"
    options: dict[str, Any] = {
        "anonymous": is_anonymous,
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
    }
    if key and secret and not is_anonymous:
        options |= {
            "access_key": key,
            "secret_key": secret,
            "session_token": os.environ.get("AWS_SESSION_TOKEN"),
        }
    if "AWS_S3_ENDPOINT" in said:
        options |= {
            "endpoint_override": said["AWS_S3_ENDPOINT"],
            "scheme": "http" if said["AWS_HTTPS"] == "NO" else "https",
            "force_virtual_addressing": said["AWS_VIRTUAL_HOSTING"] == "YES",
        }
    return pyarrow.fs.S3FileSystem(**options)
