"""Polygons of a mosaic: whole across cells, with shared borders, in bounded memory."""
