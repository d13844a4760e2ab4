"""A small tile set that can be learnt in seconds, and the settings of a quick and exact run on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from numpy.typing import NDArray

from pipeline.settings import load_settings
from pipeline.train.config import TrainConfig
from pipeline.train.job import TrainJob
from pipeline.train.resolve import make_job

CLASSES = ("water", "forest", "field")
BANDS = ("red", "green", "nir")
MEANS_KC = np.array([[60, 80, 30], [70, 100, 160], [130, 120, 110]])
UNLABELLED = 9


def labels_of(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Raster values: 1 to 3 in patches of 24 px, the third class rare, and an unlabelled edge."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([1, 2, 3], p=[0.5, 0.44, 0.06], size=(height // 24 + 1, width // 24 + 1))
    labels_HW = np.kron(coarse, np.ones((24, 24), int))[:height, :width].astype(np.uint8)
    labels_HW[:6] = UNLABELLED
    return labels_HW


def write_tile(folder: Path, name: str, *, seed: int, height: int = 120, width: int = 150) -> None:
    """An image whose classes differ in brightness, with noise and a hole, and its labels."""
    labels_HW = labels_of(seed, height, width)
    rng = np.random.default_rng(seed + 1000)
    truth_HW = np.where(labels_HW == UNLABELLED, 1, labels_HW) - 1
    image_CHW = MEANS_KC[truth_HW].transpose(2, 0, 1) + rng.normal(0, 20, (len(BANDS), height, width))
    image_CHW = image_CHW.clip(1, 255).astype(np.uint8)
    image_CHW[:, 40:50, 60:75] = 0
    profile = {"driver": "GTiff", "height": height, "width": width, "dtype": "uint8"}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    with rasterio.open(folder / "images" / f"{name}.tif", "w", count=len(BANDS), nodata=0, **profile) as file:
        file.write(image_CHW)
        file.descriptions = BANDS
    with rasterio.open(folder / "labels" / f"{name}.tif", "w", count=1, **profile) as file:
        file.write(labels_HW, 1)


def write_tiles(folder: Path, count: int = 6) -> Path:
    """A tile set of a few tiles."""
    for index in range(count):
        write_tile(folder, f"tile-{index}", seed=index)
    return folder


def settings(tiles: Path, output: Path | str, /, **groups: dict[str, Any]) -> dict[str, Any]:
    """Settings of a quick run with nothing random in the network, as a config file has them."""
    document: dict[str, Any] = {
        "tiles": {
            "url": str(tiles),
            "images": "images/*.tif",
            "labels": "labels/*.tif",
            "val_share": 0.34,
        },
        "labels": {"values": dict(enumerate(CLASSES, start=1)), "ignore": [0, UNLABELLED]},
        "model": {"backbone": "timm/test_resnet.r160_in1k", "separable": True, "aspp_dropout": 0.0},
        "train": {"max_steps": 10, "batch": 4, "crop_px": 65, "precision": "fp32"},
        "validation": {"crop": {"size_px": 129, "stride_px": 112}},
        "output": {"url": str(output)},
        "compute": {"executor": "local", "threads_per_worker": 1, "loaders": 1},
    }
    for name, values in groups.items():
        document[name] = {**document.get(name, {}), **values}
    return document


def config_of(document: dict[str, Any]) -> TrainConfig:
    """Settings as the program has them."""
    return TrainConfig.model_validate(document)


def job_of(document: dict[str, Any]) -> TrainJob:
    """The job of some settings."""
    return make_job(config_of(document))


def write_config(path: Path, document: dict[str, Any]) -> Path:
    """The same as a file."""
    path.write_text(yaml.safe_dump(json.loads(json.dumps(document))))
    load_settings(TrainConfig, config_url=str(path), assignments=[], flags={})
    return path
