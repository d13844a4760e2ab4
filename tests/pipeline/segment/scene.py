"""A small scene and a small model on disk, for whole runs."""

import json
from pathlib import Path

import numpy as np
import rasterio
import torch
import yaml
from affine import Affine

from deeplab_core import ModelConfig, build_model, save_checkpoint
from pipeline.storage import Folder

BANDS = ("red", "green", "nir")
MEAN, STD = (80.0, 90.0, 100.0), (30.0, 35.0, 40.0)
CROPS = {"size_px": 129, "stride_px": 112}


def write_model(path: Path, seed: int = 0, *, gain: float = 40, **network: str) -> Path:
    """A ResNet-18 with last weights that make it decide, since random ones alone are all but level."""
    torch.manual_seed(seed)
    config = {"backbone": "resnet18", "classes": ["water", "forest", "field"], "bands": BANDS} | network
    model = build_model(ModelConfig.model_validate(config))
    last = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    last.weight.data.mul_(gain)
    save_checkpoint(model, path, mean=MEAN, std=STD, bands=BANDS)
    return path


def write_light_model(path: Path) -> Path:
    """A network that takes an eighth of that: for runs whose subject is what is read and written."""
    return write_model(path, gain=1600, arch="deeplabv3", backbone="timm/mobilenetv3_small_050")


def write_scene(path: Path, height: int, width: int, *, holes: bool = True, seed: int = 0) -> Path:
    """Smooth random bands with a ragged edge and a hole without data, in UTM."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(len(BANDS), height // 40 + 2, width // 40 + 2))
    data = np.stack([np.kron(band, np.ones((40, 40)))[:height, :width] for band in coarse])
    data = data * np.reshape(STD, (-1, 1, 1)) + np.reshape(MEAN, (-1, 1, 1)) + rng.normal(size=data.shape) * 5
    data = data.clip(1, 255).astype(np.uint8)
    if holes:
        rows, cols = np.indices((height, width))
        data[:, cols < 60 + 40 * np.sin(rows / 30)] = 0
        data[:, (rows - height // 2) ** 2 + (cols - width // 2) ** 2 < 90**2] = 0
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": len(BANDS), "dtype": "uint8",
        "crs": "EPSG:32633", "transform": Affine(10, 0, 500000, 0, -10, 5400000), "nodata": 0,
        "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(data)
        target.descriptions = BANDS
    return path


def damage_last_tile(scene: Path) -> None:
    """Overwrite the compressed bytes of the tile in the lower right corner."""
    with rasterio.open(scene) as source:
        tile = (source.width - 1) // 256, (source.height - 1) // 256
        tags = [
            source.get_tag_item(f"BLOCK_{what}_{tile[0]}_{tile[1]}", "TIFF", bidx=1)
            for what in ("OFFSET", "SIZE")
        ]
    offset, size = (int(tag) for tag in tags)
    with scene.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * size)


def settings(source: Path, model: Path, output: Path | str, /, **groups) -> dict:
    """Settings of a quick and exact run, as a config file has them."""
    document = {
        "source": {"urls": [str(source)]},
        "model": {"url": str(model)},
        "crop": dict(CROPS),
        "inference": {"precision": "fp32", "compile": False, "batch": 2},
        "block": {"size_px": 1024},
        "output": {"url": str(output)},
        "compute": {"executor": "local", "workers": 1, "threads_per_worker": 1},
    }
    for group, values in groups.items():
        document[group] = document.get(group, {}) | values
    return document


def write_config(path: Path, document: dict) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path


def array_objects(mosaic: str | Path) -> dict[str, bytes]:
    """Every stored object of a mosaic's own arrays and overviews: what must be equal to the byte.

    Not metadata, which tell dates and places, and not the layer of changes.
    """
    folder = Folder.at(mosaic)
    keys = [found.key for found in folder.listing() if not found.key.endswith("zarr.json")]
    return {key: folder.read(key) for key in sorted(keys) if not key.startswith("changes/")}


def ledger_records(output: Path) -> dict[str, dict]:
    folder = Path(f"{output}.run") / "blocks"
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
