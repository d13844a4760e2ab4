"""How the same raster would be segmented without this program: the sides that the benchmark compares with.

Each peer reads the file, runs the same network at the same crops and stride, and writes a GeoTIFF. None of
them is bound to fit into memory, resumes, or masks: they are measured where they work.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplab_core.checkpoint import load_checkpoint
from deeplab_core.segmenter import Segmenter
from pipeline.segment.planned import PlannedRun
from pipeline.storage import gdal_path, normalise_url

SW_BATCH_SIZE = 4
"""As in MONAI's own examples."""


@dataclass(frozen=True)
class PeerTask:
    """One raster and one network, for anybody."""

    url: str
    bands: tuple[int, ...]
    gain: tuple[float, ...]
    bias: tuple[float, ...]
    model: Segmenter
    crop_px: int
    stride_px: int

    @classmethod
    def of(cls, planned: PlannedRun) -> "PeerTask":
        """The task that a planned run has."""
        inspection, lattice = planned.inspection, planned.plan.lattice
        return cls(
            url=normalise_url(planned.config.source.urls[0]),
            bands=inspection.spec.bands,
            gain=inspection.gain,
            bias=inspection.bias,
            model=eager_model(planned),
            crop_px=lattice.crop_px,
            stride_px=lattice.stride_px,
        )

    def normalised(self, raw: NDArray[Any]) -> Tensor:
        """Bands as the network takes them."""
        gain, bias = (torch.tensor(values).view(-1, 1, 1) for values in (self.gain, self.bias))
        return torch.from_numpy(raw.astype(np.float32)) * gain + bias


def eager_model(planned: PlannedRun) -> Segmenter:
    """The network as its library gives it."""
    folder = planned.inspection.model_folder
    return load_checkpoint(folder.url, read_bytes=folder.read)


def plain_loop(task: PeerTask, path: Path) -> NDArray[Any]:
    """The loop that everybody writes first: rasterio windows, float32, probabilities summed in memory."""
    with rasterio.open(gdal_path(task.url)) as source, torch.inference_mode():
        height, width, crop = source.height, source.width, task.crop_px
        total: NDArray[np.float32] | None = None
        for row in _origins(height, crop, task.stride_px):
            for col in _origins(width, crop, task.stride_px):
                window = rasterio.windows.Window(col, row, crop, crop)
                raw = source.read(list(task.bands), window=window, boundless=True, fill_value=0)
                scores = task.model(task.normalised(raw)[None])[0].softmax(dim=0).numpy()
                if total is None:
                    total = np.zeros((scores.shape[0], height, width), np.float32)
                rows, cols = min(crop, height - row), min(crop, width - col)
                total[:, row : row + rows, col : col + cols] += scores[:, :rows, :cols]
        labels = np.asarray(total).argmax(axis=0).astype(np.uint8)
        _write(labels, source.profile, path)
    return labels


def monai_documented(task: PeerTask, path: Path) -> NDArray[Any] | None:
    """MONAI's sliding window inference as its documentation shows it."""
    return _monai(task, path, lambda images, run: run(images, task.model))


def monai_tuned(task: PeerTask, path: Path) -> NDArray[Any] | None:
    """The same with bf16 autocast and channels-last, as its users tune it."""
    model = task.model.to(memory_format=torch.channels_last)

    def tuned(images_NCHW: Tensor, run: Callable[..., Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return run(images_NCHW.contiguous(memory_format=torch.channels_last), model)

    return _monai(task, path, tuned)


def _monai(
    task: PeerTask, path: Path, infer: Callable[[Tensor, Callable[..., Tensor]], Tensor]
) -> NDArray[Any] | None:
    if importlib.util.find_spec("monai") is None:
        return None
    inferers = importlib.import_module("monai.inferers")

    def run(images_NCHW: Tensor, model: Segmenter) -> Tensor:
        scores: Tensor = inferers.sliding_window_inference(
            images_NCHW,
            roi_size=(task.crop_px, task.crop_px),
            sw_batch_size=SW_BATCH_SIZE,
            predictor=model,
            overlap=1 - task.stride_px / task.crop_px,
            mode="gaussian",
        )
        return scores

    with rasterio.open(gdal_path(task.url)) as source, torch.inference_mode():
        images_NCHW = task.normalised(source.read(list(task.bands)))[None]
        labels = infer(images_NCHW, run)[0].argmax(dim=0).to(torch.uint8).numpy()
        _write(labels, source.profile, path)
    return labels


def _origins(length: int, crop: int, stride: int) -> range:
    return range(0, max(0, math.ceil((length - crop) / stride)) * stride + 1, stride)


def _write(labels: NDArray[np.uint8], profile: dict[str, Any], path: Path) -> None:
    kept = {key: profile[key] for key in ("crs", "transform", "height", "width")}
    options = {"driver": "GTiff", "count": 1, "dtype": "uint8", "tiled": True, "compress": "deflate"}
    with rasterio.open(path, "w", **kept, **options) as target:
        target.write(labels, 1)


PEERS: dict[str, Callable[[PeerTask, Path], NDArray[Any] | None]] = {
    "plain_loop": plain_loop,
    "monai_documented": monai_documented,
    "monai_tuned": monai_tuned,
}
