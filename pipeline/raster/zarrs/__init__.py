"""Zarr as a source: OME-Zarr 0.4 and 0.5, and plain arrays with CF or GeoZarr georeference."""
