"""Rasters: integer windows, georeferenced grids, sources to read and mosaics to write."""
