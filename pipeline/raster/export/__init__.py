"""What users take away from a mosaic: COG, OME labels, a STAC item."""
