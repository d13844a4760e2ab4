"""Small OME-Zarr images with known samples, written without the code that reads them."""

import numpy as np
import zarr
from zarr.codecs import BloscCodec

UNITS = {"t": "second", "c": None, "z": "micrometer", "y": "micrometer", "x": "micrometer"}
TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
SCALES = {"t": 2.5, "c": 1.0, "z": 1.5, "y": 0.5, "x": 0.5}


def smooth(shape, seed=0, dtype=np.uint8):
    """Blotches with some grain, different in every plane."""
    random = np.random.default_rng(seed)
    *planes, height, width = shape
    coarse = random.integers(20, 220, (*planes, height // 25 + 1, width // 25 + 1))
    full = coarse.repeat(25, axis=-2).repeat(25, axis=-1)[..., :height, :width]
    return (full + random.integers(0, 20, shape)).astype(dtype)


def multiscales(axes, paths, *, translation=None, units=UNITS, version=None):
    """The metadata of levels, each half the size of the one before."""
    datasets = []
    for level, path in enumerate(paths):
        scale = [SCALES[axis] * (2**level if axis in "yx" else 1) for axis in axes]
        steps = [{"type": "scale", "scale": scale}]
        if translation is not None:
            steps.append({"type": "translation", "translation": translation})
        datasets.append({"path": path, "coordinateTransformations": steps})
    described = []
    for axis in axes:
        unit = {"unit": units[axis]} if units.get(axis) else {}
        described.append({"name": axis, "type": TYPES[axis], **unit})
    return [
        {"axes": described, "datasets": datasets, "name": "image"} | ({"version": version} if version else {})
    ]


def write_ome(
    path, values, axes, *, version="0.5", labels=None, levels=1, chunks=None, shards=None, translation=None
):
    """An image of these axes; coarser levels are every second pixel."""
    v2 = version == "0.4"
    names = [str(level) for level in range(levels)]
    described = multiscales(axes, names, translation=translation, version=version if v2 else None)
    omero = {"omero": {"channels": [{"label": label} for label in labels]}} if labels else {}
    metadata = {"multiscales": described, **omero}
    attributes = metadata if v2 else {"ome": {"version": version, **metadata}}
    group = zarr.create_group(str(path), zarr_format=2 if v2 else 3, attributes=attributes)
    for name in names:
        extra = (
            {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
            if v2
            else {"dimension_names": list(axes)}
        )
        if not v2:
            extra["compressors"] = BloscCodec()
        if shards:
            extra["shards"] = shards
        extra["chunks"] = chunks or tuple(min(64, size) for size in values.shape)
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, fill_value=0, **extra)
        array[...] = values
        values = values[..., ::2, ::2]
    return str(path)
