"""Small rasters."""

import pytest
import rasterio


@pytest.fixture
def write(tmp_path):
    """Writes samples as a GeoTIFF and gives its path."""

    def write(values, name="a.tif", *, mask=None, colorinterp=None, descriptions=None, **profile):
        path = tmp_path / name
        shape = {"count": values.shape[0], "height": values.shape[1], "width": values.shape[2]}
        env = {"GDAL_TIFF_INTERNAL_MASK": profile.pop("internal_mask", True)}
        with (
            rasterio.Env(**env),
            rasterio.open(
                path, "w", **({"driver": "GTiff", "dtype": values.dtype.name} | shape | profile)
            ) as dataset,
        ):
            if colorinterp:
                dataset.colorinterp = colorinterp
            dataset.write(values)
            for band, text in enumerate(descriptions or [], 1):
                dataset.set_band_description(band, text)
            if mask is not None:
                dataset.write_mask(mask)
        return str(path)

    return write
