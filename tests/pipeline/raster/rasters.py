"""Small rasters with known samples, and what reading them must give."""

import numpy as np

from pipeline.raster.gdal_source import GdalSpec, inspect_raster
from pipeline.raster.window import Window

HEIGHT, WIDTH = 41, 53
WHOLE = Window(0, 0, HEIGHT, WIDTH)
AROUND = Window(-6, -9, HEIGHT + 13, WIDTH + 20)


def samples(count, dtype, seed=0):
    """Values all over the type's range, none of them 0."""
    random = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    shape = (count, HEIGHT, WIDTH)
    if dtype.kind == "f":
        return (random.standard_normal(shape) * 1000 + 5000).astype(dtype)
    info = np.iinfo(dtype)
    values = random.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return np.where(values == 0, np.ones_like(values), values)


def write_vrt(folder, bands):
    """A VRT of single bands: (type, nodata, colour interpretation, file, band of the file)."""
    text = ""
    for number, (kind, nodata, color, name, band) in enumerate(bands, 1):
        text += f'<VRTRasterBand dataType="{kind}" band="{number}">'
        text += "" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"
        text += "" if color is None else f"<ColorInterp>{color}</ColorInterp>"
        text += f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
        text += f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
    path = folder / "bands.vrt"
    path.write_text(f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}">{text}</VRTDataset>')
    return str(path)


def read(url, window=WHOLE, *, bands=None, nodata=None):
    bands = bands or tuple(band.number for band in inspect_raster(url).bands)
    source = GdalSpec(url, tuple(bands), nodata).open()
    try:
        return source.read(window)
    finally:
        source.close()


def present(pixels):
    """Which samples have data."""
    missing = pixels.missing_CHW
    there = np.broadcast_to(pixels.valid_HW, pixels.samples_CHW.shape)
    return there if missing is None else there & ~missing


def assert_holds(pixels, values, has_data):
    """Every promise of ``Pixels``, for full-size expected values and masks."""
    has_data = np.broadcast_to(has_data, values.shape)
    np.testing.assert_array_equal(pixels.valid_HW, has_data.any(axis=0))
    np.testing.assert_array_equal(present(pixels), has_data)
    expected = np.where(has_data, values, 0).astype(pixels.samples_CHW.dtype)
    np.testing.assert_array_equal(pixels.samples_CHW, expected)
    assert np.isfinite(pixels.samples_CHW).all()
    if pixels.missing_CHW is not None:
        assert pixels.missing_CHW.any()


def holes():
    """An oddly shaped mask, True where there is data."""
    rows, cols = np.mgrid[0:HEIGHT, 0:WIDTH]
    return (rows - 20) ** 2 + (cols - 15) ** 2 > 90
