"""DeepLab: an encoder and a head, giving logits on the lattice or at input size."""

from torch import Tensor, nn

from deeplab_core.adapters import build_adapter
from deeplab_core.backbone import Encoder, build_encoder
from deeplab_core.config import ModelConfig
from deeplab_core.heads import build_auxiliary_head, build_head
from deeplab_core.pretrained import load_pretrained_encoder
from deeplab_core.resample import resize, resize_to_nodes
from deeplab_core.segmenter import Segmenter

LATTICE_STRIDE = 4


class DeepLab(Segmenter):
    """Any of our own architectures.

    Args:
        config: Its graph.
    """

    backbone: Encoder

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, lattice_stride=LATTICE_STRIDE, input_multiple_px=config.output_stride)
        self.backbone = build_encoder(
            config.backbone,
            in_channels=config.in_channels,
            output_stride=config.output_stride,
            dilate_first=config.dilate_first,
            multi_grid=config.multi_grid,
        )
        _set_batchnorm(self.backbone, momentum=config.backbone_bn_momentum, eps=config.backbone_bn_eps)
        self.head = build_head(config, self.backbone)
        self.aux_head = build_auxiliary_head(config, self.backbone)

    @property
    def encoder(self) -> Encoder:
        """The part that may come pretrained."""
        return self.backbone

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Gives logits_NKHW at input size, for any input size."""
        return self._to_input_size(self.head(self.backbone(images_NCHW)), images_NCHW)

    def lattice(self, images_NCHW: Tensor) -> Tensor:
        """Gives logits_NKHW on the nodes at pixels 0, 4, 8, …, as `forward` has them there."""
        return resize_to_nodes(
            self.head(self.backbone(images_NCHW)),
            images_NCHW.shape[-2],
            images_NCHW.shape[-1],
            stride=self.lattice_stride,
            align_corners=self.config.align_corners,
        )

    def forward_with_aux(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gives the logits of `forward` and those of the auxiliary head, or None without one."""
        features = self.backbone(images_NCHW)
        logits_NKHW = self._to_input_size(self.head(features), images_NCHW)
        if self.aux_head is None:
            return logits_NKHW, None
        return logits_NKHW, self._to_input_size(self.aux_head(features), images_NCHW)

    def _to_input_size(self, logits_NKHW: Tensor, images_NCHW: Tensor) -> Tensor:
        return resize(
            logits_NKHW,
            images_NCHW.shape[-2],
            images_NCHW.shape[-1],
            align_corners=self.config.align_corners,
        )


def build_model(config: ModelConfig) -> Segmenter:
    """Builds a model.

    Weights are random (seeded by `torch.manual_seed`); with `config.pretrained` the encoder's are its
    library's published ones, from that library's cache or download.

    Args:
        config: Its graph.

    Returns:
        The model, in training mode.
    """
    if config.provider != "deeplab":
        return build_adapter(config)
    model = DeepLab(config)
    if config.pretrained:
        load_pretrained_encoder(model.backbone, config.backbone, bands=config.bands)
    return model


def _set_batchnorm(module: nn.Module, *, momentum: float | None, eps: float | None) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = layer.momentum if momentum is None else momentum
            layer.eps = layer.eps if eps is None else eps
