"""What every model offers, whoever wrote its graph: logits on the lattice and at input size.

Shapes: N batch, C bands, K classes, H × W rows and columns.
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from deeplab_core.config import ModelConfig

if TYPE_CHECKING:
    from deeplab_core.calibration import Calibration
    from deeplab_core.metadata import CheckpointMetadata


class Segmenter(nn.Module):
    """Base of all models.

    Attributes:
        config: The graph as data; `build_model(model.config)` builds the same one.
        metadata: What a checkpoint says beside the weights; None until one was saved or loaded.
        calibration: What 8-bit inference must know; None until `calibrate` gave it or it was loaded.
        lattice_stride: Pixels between the nodes of `lattice`.
        input_multiple_px: Inputs of k · input_multiple_px + 1 px a side lie on the model's own grid:
            features fall on pixels 0, input_multiple_px, …, the last one included.
    """

    config: ModelConfig
    metadata: "CheckpointMetadata | None"
    calibration: "Calibration | None"
    lattice_stride: int
    input_multiple_px: int

    def __init__(self, config: ModelConfig, *, lattice_stride: int, input_multiple_px: int) -> None:
        super().__init__()
        self.config = config
        self.metadata = None
        self.calibration = None
        self.lattice_stride = lattice_stride
        self.input_multiple_px = input_multiple_px

    @property
    def encoder(self) -> nn.Module:
        """The part that may come pretrained."""
        raise NotImplementedError

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Gives logits_NKHW at input size, for any input size."""
        raise NotImplementedError

    def lattice(self, images_NCHW: Tensor) -> Tensor:
        """Gives logits_NKHW on the nodes at pixels 0, lattice_stride, 2·lattice_stride, ….

        They equal `forward(images_NCHW)[:, :, ::lattice_stride, ::lattice_stride]` up to rounding.
        """
        raise NotImplementedError

    def forward_with_aux(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gives the logits of `forward` and those of the auxiliary head, or None without one.

        Both are at input size.
        """
        raise NotImplementedError

    def check_input_size(self, height_px: int, width_px: int) -> None:
        """Refuses sizes whose features would not fall on the lattice.

        Args:
            height_px: Rows of a crop.
            width_px: Columns of a crop.

        Raises:
            ValueError: A size is not k · input_multiple_px + 1.
        """
        for name, size_px in (("height", height_px), ("width", width_px)):
            k = max((size_px - 1) // self.input_multiple_px, 0)
            below, above = k * self.input_multiple_px + 1, (k + 1) * self.input_multiple_px + 1
            if size_px != below:
                raise ValueError(
                    f"crop {name} must be k·{self.input_multiple_px} + 1 px for {self.config.arch}, got "
                    f"{size_px} px; use {below} or {above} px"
                )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Splits the parameters into `encoder` and `head` (all the rest), for rates by layer."""
        encoder = list(self.encoder.parameters())
        known = {id(parameter) for parameter in encoder}
        head = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return {"encoder": encoder, "head": head}
