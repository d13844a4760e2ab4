"""Small tile sets on disk."""

from pathlib import Path

import numpy as np
import pytest
import rasterio


@pytest.fixture(scope="session")
def brief_loading():
    """How fast crops are loaded alone is measured as briefly as it can be."""
    from pipeline.train import loop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOADING_ALONE_S", 0.05)
        yield


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    """A tile set that can be learnt in seconds; one for each file, since runs leave their manifest there."""
    from tests.pipeline.train.small_tiles import write_tiles

    return write_tiles(tmp_path_factory.mktemp("tiles") / "set")


@pytest.fixture(scope="session")
def few_tiles(tmp_path_factory) -> Path:
    """Where the tiles lie that trainings on Ray learn from."""
    return tmp_path_factory.mktemp("few-tiles")


@pytest.fixture(scope="session")
def undisturbed_on_ray(few_tiles, tmp_path_factory):
    """The weights that two workers of Ray end with if nobody disturbs them."""
    import ray

    from pipeline.train.trainer import train_on_ray
    from tests.pipeline.train.ray_job import job_of, settings, weights

    output = tmp_path_factory.mktemp("undisturbed") / "model"
    config = settings(str(output))
    train_on_ray(job_of(config, few_tiles), config)
    assert not ray.is_initialized()
    assert not Path(f"{output}.run/ray").exists(), "nothing of Ray's own is left"
    return weights(output)


def write_raster(path, values_CHW, **profile):
    """Writes samples; the ending of the name says as what."""
    values_CHW = np.atleast_3d(values_CHW) if values_CHW.ndim == 3 else values_CHW[None]
    count, height, width = values_CHW.shape
    driver = {".tif": "GTiff", ".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    descriptions = profile.pop("descriptions", ())
    tags = profile.pop("tags", {})
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": count, "height": height, "width": width, "dtype": values_CHW.dtype.name}
    with rasterio.open(path, "w", driver=driver, **(shape | profile)) as dataset:
        dataset.write(values_CHW)
        for number, text in enumerate(descriptions, 1):
            dataset.set_band_description(number, text)
        dataset.update_tags(**tags)
    return path


def write_pair(root, name, *, seed, shape=(37, 53), classes=3, bands=3, image=None, labels=None, **profile):
    """An image and labels with values from 0 to below ``classes``."""
    random = np.random.default_rng(seed)
    image_CHW = random.integers(1, 255, (bands, *shape), np.uint8) if image is None else image
    labels_HW = random.integers(0, classes, shape, np.uint8) if labels is None else labels
    write_raster(root / "images" / f"{name}.tif", image_CHW, **profile)
    write_raster(root / "labels" / f"{name}.png", labels_HW)
    return image_CHW, labels_HW
