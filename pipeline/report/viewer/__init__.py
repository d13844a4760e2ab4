"""A local map of a mosaic: served from its overviews to this machine's browser alone."""
