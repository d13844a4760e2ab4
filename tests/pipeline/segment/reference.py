"""The same result by other means: the whole raster at once, crop by crop, with nothing of the engine's.

Slow, short and independent: windows are formulas, upsampling is torch's own, masks are loops over crops.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F


class PositionDependentModel:
    """A crop model whose answer depends on the place in the crop, so that every blending fault shows."""

    def __init__(self, num_bands, num_classes, node_px=4, seed=0, fuse_logits=False):
        generator = torch.Generator().manual_seed(seed)
        self.kernel = torch.randn((num_classes, num_bands, 5, 5), generator=generator)
        self.ramp = torch.randn((num_classes, 2), generator=generator)
        self.node_px = node_px
        self.fuse_logits = fuse_logits

    def logits(self, images_NCHW):
        nodes = F.conv2d(images_NCHW.float(), self.kernel, stride=self.node_px, padding=2)
        height, width = nodes.shape[-2:]
        rows = torch.linspace(-1, 1, height).view(1, 1, -1, 1)
        cols = torch.linspace(-1, 1, width).view(1, 1, 1, -1)
        return nodes + self.ramp[:, 0].view(1, -1, 1, 1) * rows + self.ramp[:, 1].view(1, -1, 1, 1) * cols

    def fused(self, images_NCHW):
        scores = [self.logits(image_CHW[None]) for image_CHW in images_NCHW]
        return torch.cat([score if self.fuse_logits else score.softmax(dim=1) for score in scores])


def window_1d(kind, nodes):
    t = np.linspace(-1, 1, nodes)
    if kind == "flat":
        return np.ones(nodes)
    if kind == "hann":
        return np.maximum((1 + np.cos(np.pi * t)) / 2, 1e-3)
    return np.maximum(np.exp(-(t**2) / (2 * 0.25**2)), 1e-3)


def segment_whole(
    raw_CHW, valid_HW, wanted_HW, model, *, gain, bias, crop, stride, node_px, window, fuse_logits=False
):
    """(classes, confidence in 254ths as floats, probabilities at full size, probabilities at nodes)."""
    _, height, width = raw_CHW.shape
    image = torch.tensor(raw_CHW.astype(np.float32))
    image = image * torch.tensor(gain).view(-1, 1, 1) + torch.tensor(bias).view(-1, 1, 1)
    image = torch.where(torch.tensor(valid_HW), image, torch.zeros(()))
    rows = [i * stride for i in range(max(0, math.ceil((height - crop) / stride)) + 1)]
    cols = [j * stride for j in range(max(0, math.ceil((width - crop) / stride)) + 1)]
    big = torch.zeros((image.shape[0], rows[-1] + crop, cols[-1] + crop))
    big[:, : min(height, big.shape[1]), : min(width, big.shape[2])] = image
    seen = np.zeros(big.shape[1:], bool)
    seen[:height, :width] = valid_HW
    total, weight = None, None
    side = (crop - 1) // node_px + 1
    w1 = window_1d(window, side)
    w2 = torch.tensor(np.outer(w1, w1))
    for r in rows:
        for c in cols:
            if not seen[r : r + crop, c : c + crop].any():
                continue
            scores = model.fused(big[None, :, r : r + crop, c : c + crop])[0].double()
            if total is None:
                shape = ((big.shape[1] - 1) // node_px + 1, (big.shape[2] - 1) // node_px + 1)
                total = torch.zeros((scores.shape[0], *shape), dtype=torch.float64)
                weight = torch.zeros(shape, dtype=torch.float64)
            place = (slice(r // node_px, r // node_px + side), slice(c // node_px, c // node_px + side))
            total[(slice(None), *place)] += scores * w2
            weight[place] += w2
    nodes = total / weight.clamp_min(1e-30)
    if fuse_logits:
        nodes = nodes.softmax(0)
    full_size = (big.shape[1] - 1) // node_px * node_px + 1, (big.shape[2] - 1) // node_px * node_px + 1
    full = F.interpolate(nodes[None], size=full_size, mode="bilinear", align_corners=True)[0]
    full = full[:, :height, :width].numpy()
    classes = np.where(wanted_HW, full.argmax(0), 255)
    confidence = np.where(wanted_HW, full.max(0) * 254, 255.0)
    return classes, confidence, full, nodes.numpy()


def assert_same_mosaic(classes, confidence, reference):
    """Labels agree wherever the two best classes are not level; confidence to a rounding step."""
    expected, expected_confidence, full, _ = reference
    ordered = np.sort(full, axis=0)
    clear = (ordered[-1] - ordered[-2] > 1e-5) if len(full) > 1 else np.ones(expected.shape, bool)
    nodata = expected == 255
    np.testing.assert_array_equal(classes == 255, nodata)
    np.testing.assert_array_equal(classes[clear & ~nodata], expected[clear & ~nodata])
    assert np.abs(confidence.astype(float) - expected_confidence)[~nodata].max(initial=0) <= 0.5 + 1e-2
    assert (confidence[nodata] == 255).all()
