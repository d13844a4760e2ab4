"""What to do about a place that is not there, or that lets nobody in: the ends of messages."""

import difflib
from itertools import islice
from pathlib import Path

LOOKED_AT = 10_000
"""Names in a folder among which a slip of the pen is looked for."""

SIGNS_OF_NO_KEYS = ("169.254.169.254", "metadata.google.internal", "configuration options not defined")
"""Where no credentials are found, the machine's own role is asked for at these places; GDAL says the last."""

KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true where anybody may read",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


def where_to_look(url: str) -> str:
    """For a place where nothing is: what was probably meant.

    Args:
        url: A path, or an address in a bucket.
    """
    if "://" in url:
        return "check the URL"
    path = Path(url).absolute()
    if path.exists():
        return f"look into {path}"
    try:
        beside = [entry.name for entry in islice(path.parent.iterdir(), LOOKED_AT)]
    except OSError:
        return f"there is no folder {path.parent} either"
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"did you mean {path.with_name(near[0])}?" if near else f"look into {path.parent}"


def about_keys(url: str, said: str) -> str | None:
    """For a store that was asked without credentials: which to set; None where that was not it.

    Args:
        url: What was asked for.
        said: By the library that asked.
    """
    keys = KEYS.get(url.partition("://")[0])
    if keys is None or not any(sign in said for sign in SIGNS_OF_NO_KEYS):
        return None
    return f"no credentials were found: set {keys}"
