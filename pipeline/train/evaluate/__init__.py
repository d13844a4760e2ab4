"""A mosaic against labels: counts, areas, reliability, an error map."""
