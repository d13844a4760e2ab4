"""A mosaic's metadata gathered in one object, so that xarray opens it with one request and no warning."""

import warnings

import zarr
from zarr.errors import ZarrUserWarning

from pipeline.storage import Folder, explained


def consolidate(folder: Folder) -> None:
    """Gather the metadata of every array and group there is; again whenever one is added."""
    with warnings.catch_warnings(), explained("consolidate the mosaic at", folder.url, missing_is_fault=True):
        # zarr warns that this is not in the specification yet; who does not know of it reads the rest.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(folder.zarr_store(), zarr_format=3)
