"""A segmenter of two convolutions, quick enough to be run and compiled many times."""

import torch
from torch import Tensor, nn

from deeplab_core.config import ModelConfig
from deeplab_core.resample import resize
from deeplab_core.segmenter import Segmenter


class TinySegmenter(Segmenter):
    """Features at stride 16 and logits on the stride-4 lattice, in 3 × 3 and 5 × 5 pixels' sight.

    Its kernels are random, so no flip leaves them as they are. It records the shapes and types it was given.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 4, seed: int = 0) -> None:
        classes = tuple(f"class {index}" for index in range(num_classes))
        config = ModelConfig(classes=classes, in_channels=in_channels)
        super().__init__(config, lattice_stride=4, input_multiple_px=16)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.fine = nn.Sequential(
                nn.Conv2d(in_channels, 8, 5, stride=4, padding=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()
            )
            self.coarse = nn.Conv2d(8, 8, 3, stride=4, padding=1)
            self.logits = nn.Conv2d(8, num_classes, 1)
        self.seen: list[tuple[tuple[int, ...], torch.dtype]] = []
        self.eval()

    def lattice(self, images_NCHW: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.seen.append((tuple(images_NCHW.shape), images_NCHW.dtype))
        fine = self.fine(images_NCHW)
        coarse = resize(self.coarse(fine), fine.shape[-2], fine.shape[-1], align_corners=True)
        return 12.0 * self.logits(fine + coarse)
