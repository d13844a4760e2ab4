"""A network that has learnt something, made in a test: two scenes of the synthetic landscape and a minute."""

from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from affine import Affine

from deeplab_core import ModelConfig, build_model, save_checkpoint
from pipeline.synthetic.cover import CLASSES
from pipeline.synthetic.landscape import CRS, IGNORED, make_landscape
from pipeline.synthetic.optics import BANDS, NODATA

CROP_PX = 129
STEPS = 150
BATCH = 8


def fit(folder: Path, *, side: int = 768) -> tuple[Path, Path]:
    """A checkpoint, and a scene that it has not seen."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    image_CHW, labels_HW = make_landscape(side, seed=1)
    seen = labels_HW != IGNORED
    mean, std = image_CHW[:, seen].mean(axis=1), image_CHW[:, seen].std(axis=1)
    image_CHW = (image_CHW - mean[:, None, None]) / std[:, None, None] * seen
    model = build_model(
        ModelConfig(backbone="resnet18", classes=list(CLASSES), bands=list(BANDS), in_channels=len(BANDS))
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, STEPS)
    for _ in range(STEPS):
        corners = rng.integers(0, side - CROP_PX, (BATCH, 2))
        parts = [(slice(row, row + CROP_PX), slice(col, col + CROP_PX)) for row, col in corners]
        images_NCHW = torch.tensor(np.stack([image_CHW[:, *part] for part in parts]), dtype=torch.float32)
        labels_NHW = torch.tensor(np.stack([labels_HW[part] for part in parts]).astype(np.int64))
        loss = F.cross_entropy(model(images_NCHW), labels_NHW, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    save_checkpoint(model.eval(), folder / "model", mean=mean.tolist(), std=std.tolist(), bands=list(BANDS))
    return folder / "model", _write_scene(folder / "scene.tif", side)


def _write_scene(path: Path, side: int) -> Path:
    image_CHW, labels_HW = make_landscape(side, seed=2)
    profile = {
        "driver": "GTiff", "height": side, "width": side, "count": len(BANDS), "dtype": image_CHW.dtype,
        "nodata": NODATA, "crs": CRS, "transform": Affine(10, 0, 399_960, 0, -10, 5_400_000), "tiled": True,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(image_CHW)
        target.descriptions = BANDS
    np.save(path.with_suffix(".npy"), labels_HW)
    return path
