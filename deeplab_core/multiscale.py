"""Inference at several scales and through flips, fused on the base lattice.

The order is DeepLab's own: scale the image, run the network, undo the flip on the logits, bring them to the
base lattice, softmax, mean. Shapes: N batch, C bands, K classes, H × W rows and columns.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from torch import Tensor, nn

from deeplab_core.resample import resize
from deeplab_core.scales import scaled_size_px
from deeplab_core.softmax import softmax
from deeplab_core.symmetry import symmetries

Fuse = Literal["probabilities", "logits"]


class LatticeModel(Protocol):
    """What multi-scale inference needs of a model, prepared or not."""

    @property
    def lattice_stride(self) -> int:
        """Pixels between the nodes of `lattice`."""

    @property
    def input_multiple_px(self) -> int:
        """Inputs must be k · input_multiple_px + 1 px a side."""

    def lattice(self, images_NCHW: Tensor) -> Tensor:
        """Gives logits_NKHW on the nodes.

        Args:
            images_NCHW: Normalised crops.
        """


class MultiScale:
    """A model seen at several scales and through flips.

    Each scale has one fixed input size, so that it can be compiled: see `shapes`. Gradients are not the
    subject; call it under `torch.inference_mode()`.

    Args:
        model: A model, prepared or not, in eval mode.
        scales: Factors on the crop's size; see `deeplab_core.scales`.
        flips: Any of "h" and "v" (the identity is always included, both together make four), or "d4" for the
            eight symmetries of the square.
        fuse: What is averaged: `probabilities` as published, or `logits`.
    """

    def __init__(
        self,
        model: LatticeModel,
        *,
        scales: Sequence[float] = (0.75, 1.0, 1.25),
        flips: Sequence[str] = ("h",),
        fuse: Fuse = "probabilities",
    ) -> None:
        if not scales or len(set(scales)) != len(scales):
            raise ValueError(f"scales must be one or more different factors, got {list(scales)}")
        if fuse not in get_args(Fuse):
            raise ValueError(f"fuse must be one of {', '.join(get_args(Fuse))}, got {fuse!r}")
        self.model = model
        self.scales = tuple(float(scale) for scale in scales)
        self.symmetries = symmetries(flips)
        self.fuse = fuse
        # A prepared model converts its input itself.
        self._dtype = next(model.parameters()).dtype if isinstance(model, nn.Module) else None

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Gives probabilities_NKHW on the base lattice, in float32.

        Args:
            images_NCHW: Normalised crops of k · input_multiple_px + 1 px a side, in any float type.
        """
        fused_NKHW = self.fused(images_NCHW)
        return softmax(fused_NKHW) if self.fuse == "logits" else fused_NKHW

    def fused(self, images_NCHW: Tensor) -> Tensor:
        """Gives the mean over scales and flips of what `fuse` names, on the base lattice, in float32.

        For those who go on averaging, over crops that overlap, and need logits as logits.

        Args:
            images_NCHW: As for a call.
        """
        height_px, width_px = images_NCHW.shape[-2], images_NCHW.shape[-1]
        sizes_px = [(self._scaled(height_px, s), self._scaled(width_px, s)) for s in self.scales]
        stride = self.model.lattice_stride
        nodes = (height_px - 1) // stride + 1, (width_px - 1) // stride + 1
        total_NKHW: Tensor | None = None
        for scaled_px in sizes_px:
            # Resized in float32 even for half-precision networks: their eight bits would show in the input.
            scaled_NCHW = (
                images_NCHW
                if scaled_px == (height_px, width_px)
                else resize(images_NCHW.float(), *scaled_px, align_corners=True)
            )
            for symmetry in self.symmetries:
                logits_NKHW = symmetry.undo(self._lattice(symmetry.apply(scaled_NCHW))).float()
                # Exact: both lattices have a node on each corner.
                logits_NKHW = resize(logits_NKHW, *nodes, align_corners=True).contiguous()
                view_NKHW = logits_NKHW if self.fuse == "logits" else softmax(logits_NKHW)
                total_NKHW = view_NKHW if total_NKHW is None else total_NKHW + view_NKHW
        assert total_NKHW is not None  # noqa: S101 - there is at least one scale and the identity
        num_views = len(self.scales) * len(self.symmetries)
        return total_NKHW if num_views == 1 else total_NKHW / num_views

    def shapes(self, batch: int, channels: int, size_px: int) -> tuple[tuple[int, int, int, int], ...]:
        """Gives every input shape that the model sees for square crops, one for each scale.

        Args:
            batch: Crops in a batch.
            channels: Bands.
            size_px: Side of a crop.

        Returns:
            Shapes N, C, H, W in the order of the scales.
        """
        sizes_px = [self._scaled(size_px, scale) for scale in self.scales]
        return tuple((batch, channels, scaled_px, scaled_px) for scaled_px in sizes_px)

    def _scaled(self, size_px: int, scale: float) -> int:
        return scaled_size_px(size_px, scale, self.model.input_multiple_px)

    def _lattice(self, images_NCHW: Tensor) -> Tensor:
        return self.model.lattice(images_NCHW if self._dtype is None else images_NCHW.to(self._dtype))
