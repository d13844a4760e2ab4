"""Measures what 8-bit inference must know of a model (`calibration.py` says what and why)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from deeplab_core.calibration import Calibration, Statistics
from deeplab_core.heads import ASPPSum
from deeplab_core.model import DeepLab
from deeplab_core.multiscale import LatticeModel, MultiScale
from deeplab_core.segmenter import Segmenter
from deeplab_core.simplify import simplify


def calibrate(model: Segmenter, crops: Iterable[Tensor], *, scales: Sequence[float] = (1.0,)) -> Calibration:
    """Runs a model on crops and notes the values within.

    Args:
        model: Any of our models.
        crops: Normalised images_NCHW of one size, at least as large as inference will see them, without
            padding; thirty from all over a region are enough.
        scales: Factors that `MultiScale` will use.

    Returns:
        The calibration; set it as `model.calibration` before the checkpoint is saved.

    Raises:
        ValueError: There are no crops, or the model gives values that are not finite.
    """
    inputs, results = _Notes(), _Notes()
    device = next(model.parameters()).device
    run: MultiScale | None = None
    order: list[str] = []
    with torch.inference_mode():
        for images_NCHW in crops:
            if run is None:
                replica = simplify(model, device, side_px=images_NCHW.shape[-1]).model
                _watch(replica, inputs, results, order)
                run = MultiScale(replica, scales=scales, flips=())
            run(images_NCHW.to(device, torch.float32))
    if run is None:
        raise ValueError("crops must be one or more, got none; give a source with valid pixels")
    # What sees the raster and what gives the logits stay in full: all else depends on the one, and nothing
    # that comes after the other can make up for it.
    delicate = {order[0], *_logits_of(run.model, order)}
    return Calibration(
        {path: found for path, found in inputs.statistics().items() if path not in delicate},
        results.statistics(),
    )


def _logits_of(model: LatticeModel, order: Sequence[str]) -> list[str]:
    """The last convolution; or each rate's classifier, of which DeepLab v2 sums the logits."""
    if isinstance(model, DeepLab) and isinstance(model.head, ASPPSum):
        return [f"head.classifiers.{index}" for index in range(len(model.head.classifiers))]
    return [order[-1]]


class _Notes:
    """Bounds and sums of tensors by name, over many crops."""

    def __init__(self) -> None:
        self._low: dict[str, float] = {}
        self._high: dict[str, float] = {}
        self._sum_C: dict[str, Tensor] = {}
        self._count: dict[str, int] = {}

    def add(self, path: str, values_NCHW: Tensor) -> None:
        low, high = (bound.item() for bound in torch.aminmax(values_NCHW))
        self._low[path] = min(low, self._low.get(path, 0.0))
        self._high[path] = max(high, self._high.get(path, 0.0))
        sum_C = values_NCHW.sum(dim=(0, 2, 3), dtype=torch.float64)
        self._sum_C[path] = sum_C + self._sum_C.get(path, torch.zeros_like(sum_C))
        self._count[path] = self._count.get(path, 0) + values_NCHW.numel() // values_NCHW.shape[1]

    def statistics(self) -> dict[str, Statistics]:
        found = {}
        for path, sum_C in self._sum_C.items():
            mean_C = (sum_C / self._count[path]).float().cpu()
            if not torch.isfinite(mean_C).all():
                raise ValueError(f"the model must give finite values on the crops, got others at {path}")
            found[path] = Statistics(self._low[path], self._high[path], mean_C)
        return found


def _watch(model: Segmenter, inputs: _Notes, results: _Notes, order: list[str]) -> None:
    def before(path: str, images_NCHW: Tensor, *, is_fit: bool) -> None:
        order.append(path)
        is_a_map = images_NCHW.shape[-1] * images_NCHW.shape[-2] > 1
        if is_fit and is_a_map:
            inputs.add(path, images_NCHW)

    for path, part in model.named_modules():
        if isinstance(part, nn.Conv2d):
            is_fit = part.groups == 1 and part.padding_mode == "zeros" and not isinstance(part.padding, str)
            part.register_forward_pre_hook(
                lambda _, given, path=path, is_fit=is_fit: before(path, given[0], is_fit=is_fit)
            )
        elif isinstance(part, BasicBlock | Bottleneck):
            part.register_forward_hook(lambda _m, _g, result, path=path: results.add(path, result))
            if part.downsample is not None:
                part.downsample.register_forward_hook(
                    lambda _m, _g, result, path=path: results.add(f"{path}.downsample", result)
                )
