"""What `prepare_for_inference` gives: a model that only infers, and a record of what was done to it.

Shapes: N batch, C bands, K classes, H × W rows and columns.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from deeplab_core.compiled import TensorFunction
from deeplab_core.config import ModelConfig
from deeplab_core.segmenter import Segmenter

if TYPE_CHECKING:
    from deeplab_core.metadata import CheckpointMetadata

logger = logging.getLogger(__name__)

FloatPrecision = Literal["fp32", "bf16", "fp16"]
Precision = FloatPrecision | Literal["int8"]
Size = tuple[int, int]

_DTYPES: Mapping[FloatPrecision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Preparation:
    """What was done to a model, for reports.

    Attributes:
        precision: Type of weights and activations.
        float_precision: The same, or the type of what is not in 8 bits if the others are.
        device: Where it runs.
        channels_last: Whether bands are innermost in memory.
        crops_per_call: Crops that the network sees at once; batches are cut into, or filled up to, so many.
        folded: Batch norms that became part of a convolution.
        unfolded: Module paths of those that did not.
        fast_decoder: Whether the v3+ decoder runs without its upsampled input.
        quantised: Convolutions that compute in 8 bits.
        packed: Others whose weights lie as the processor's library wants them.
        compiled: Whether the shapes asked for are compiled.
        reason: Why it is compiled or not.
    """

    precision: Precision
    float_precision: FloatPrecision
    device: str
    channels_last: bool
    crops_per_call: int
    folded: int
    unfolded: tuple[str, ...]
    fast_decoder: bool
    quantised: int = 0
    packed: int = 0
    compiled: bool = False
    reason: str = "not asked for"

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and activations, but of those in 8 bits."""
        return _DTYPES[self.float_precision]

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of weights and activations."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def stage(self, images_NCHW: Tensor, num_crops: int) -> Tensor:
        """Copies crops into a fresh tensor of exactly the layout, type and batch that is compiled for.

        Args:
            images_NCHW: Crops in any float type, on any device.
            num_crops: Crops in the result; those beyond the given ones are zero.
        """
        staged_NCHW = torch.empty(
            (num_crops, *images_NCHW.shape[1:]),
            dtype=self.dtype,
            device=self.device,
            memory_format=self.memory_format,
        )
        staged_NCHW[: len(images_NCHW)].copy_(images_NCHW)
        staged_NCHW[len(images_NCHW) :].zero_()
        return staged_NCHW


class PreparedModel:
    """A model that only infers. A crop's result does not depend on the batch around it.

    Made by `prepare_for_inference`. One thread at a time may call it.

    Attributes:
        config: The graph.
        metadata: What the checkpoint says, if it came from one.
        lattice_stride: Pixels between the nodes of `lattice`.
        input_multiple_px: Inputs must be k · input_multiple_px + 1 px a side.
        preparation: What was done to it.
    """

    config: ModelConfig
    metadata: "CheckpointMetadata | None"

    def __init__(
        self,
        model: Segmenter,
        preparation: Preparation,
        compiled: Mapping[Size, TensorFunction],
    ) -> None:
        self.config = model.config
        self.metadata = model.metadata
        self.lattice_stride = model.lattice_stride
        self.input_multiple_px = model.input_multiple_px
        self.preparation = preparation
        self._model = model
        self._compiled = compiled
        self._reported: set[Size] = set()

    def lattice(self, images_NCHW: Tensor) -> Tensor:
        """Gives logits_NKHW on the nodes, in the model's precision.

        Args:
            images_NCHW: Normalised crops, any number of them, in any float type, on any device.
        """
        # Compiled code is bound to ordinary tensors; those made under a caller's inference_mode differ.
        with torch.inference_mode(mode=False), torch.no_grad():
            parts = [self._run(part) for part in images_NCHW.split(self.preparation.crops_per_call)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run(self, images_NCHW: Tensor) -> Tensor:
        size = images_NCHW.shape[-2], images_NCHW.shape[-1]
        if self._compiled and size not in self._compiled and size not in self._reported:
            self._reported.add(size)
            logger.warning(
                "crops of %d×%d px run uncompiled, because only %s px were prepared; name their scale or "
                "size_px in prepare_for_inference",
                *size,
                ", ".join("×".join(map(str, known)) for known in self._compiled),
            )
        # Filled up even where nothing is compiled: libraries choose their kernels by the size of the batch.
        staged_NCHW = self.preparation.stage(images_NCHW, self.preparation.crops_per_call)
        logits_NKHW = self._compiled.get(size, self._model.lattice)(staged_NCHW)
        return logits_NKHW[: len(images_NCHW)]
