"""How to open a mosaic elsewhere: commands with its real address, quoted for where they are pasted."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.report.subject import Subject
from pipeline.storage import gdal_path, is_local


@dataclass(frozen=True)
class Way:
    """One way to open a mosaic."""

    title: str
    hint: str
    command: str


def ways_to_open(subject: Subject) -> Iterator[Way]:
    """QGIS, Python, GDAL and napari."""
    url = subject.run.report["output"]
    raster = f'ZARR:"{gdal_path(url)}":/classes'
    keys = "" if is_local(url) else " The usual variables for credentials must be set, for example AWS_*."
    yield Way(
        "QGIS",
        "Layer → Add Layer → Add Raster Layer, and paste this as the raster dataset (GDAL 3.12 or newer)."
        + keys,
        raster,
    )
    yield Way(
        "A GeoTIFF for any program",
        "A valid COG with colours, nodata and overviews, written in strips; run it where the program lies.",
        f"python jobs/export_cog.py --mosaic {shlex.quote(url)} --array classes "
        f"--output {shlex.quote(f'{_stem(subject.name)}.tif')}",
    )
    yield Way("GDAL", "GDAL 3.12 or newer reads the mosaic itself." + keys, f"gdalinfo {shlex.quote(raster)}")
    yield Way("Python", "By window, in the mosaic's pixels, rows first; nothing else is read.", _mosaic(url))
    yield Way("xarray", "Lazily, with coordinates and CRS.", _xarray(url))
    yield Way("napari", "All levels at once, in the colours of this page.", _napari(subject, url))


def _mosaic(url: str) -> str:
    return (
        "from pipeline.raster.mosaic import Mosaic\n"
        "from pipeline.raster.window import Window\n\n"
        f"mosaic = Mosaic.open({url!r})\n"
        "corner = Window(row=0, col=0, height=512, width=512).intersect(mosaic.grid.window)\n"
        "classes = mosaic.classes(corner)\n"
        "confidence = mosaic.confidence(corner)"
    )


def _xarray(url: str) -> str:
    return (
        "import xarray as xr\n\n"
        f"mosaic = xr.open_zarr({url!r}, consolidated=False, mask_and_scale=False)\n"
        'classes = mosaic["classes"]'
    )


def _napari(subject: Subject, url: str) -> str:
    factors = subject.mosaic.overview_factors() if subject.run.has_overviews else []
    names = ["classes", *(f"overviews/{factor}/classes" for factor in factors)]
    # None stands for every value that is not named, nodata for one.
    by_index = sorted(subject.classes, key=lambda one: one.index)
    palette: dict[int | None, str] = {one.index: one.color for one in by_index}
    palette[None] = "transparent"
    layers = f"[mosaic[name] for name in {names!r}], multiscale=True" if factors else 'mosaic["classes"]'
    return (
        "import napari\n"
        "import zarr\n\n"
        f'mosaic = zarr.open_group({url!r}, mode="r")\n'
        f"colors = {palette!r}\n"
        "viewer = napari.Viewer()\n"
        f'viewer.add_labels({layers}, name="classes", colormap=colors)\n'
        "napari.run()"
    )


def _stem(name: str) -> str:
    return name.removesuffix(".zarr") or "mosaic"
