"""The tiles of a mosaic that are most worth labelling."""
