"""The memory that a worker of an evaluation takes: by its settings, whatever the mosaic's size."""

from pipeline.segment.executor import TASKS_IN_FLIGHT
from pipeline.train.evaluate.worker import EvaluateSpec
from pipeline.train.tiles.drawn_labels import DrawnLabels

PROCESS_BYTES = 1080 << 20
"""Python with torch (measured: 790 MiB), and GDAL's cache of 256 MiB."""

BYTES_PER_PX = 48
"""Classes, confidence, labels, owners of a block with its halo, and the flags that tell contours."""

DRAWN_FACTOR = 12
"""A geometry in memory and in its tree, by the bytes of its file form."""


def project_memory_bytes(spec: EvaluateSpec) -> int:
    """The most that one worker holds."""
    side_px = spec.block_px + 2 * spec.boundary_px
    drawn = [source.drawn for source in spec.labels if isinstance(source, DrawnLabels)]
    drawn += [spec.regions] if spec.regions else []
    geometry_bytes = sum(len(wkb) for one in drawn for wkb in one.wkb)
    return PROCESS_BYTES + TASKS_IN_FLIGHT * BYTES_PER_PX * side_px**2 + DRAWN_FACTOR * geometry_bytes
