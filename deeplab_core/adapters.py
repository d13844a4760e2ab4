"""Networks of other libraries behind the same methods as our own.

`smp/<Class>` is any class of segmentation_models_pytorch, `torchvision/<name>` any segmentation network of
torchvision. Their graphs, names and resizes stay their own; here inputs are padded to a size the network
accepts and its logits cut back. Behind the prefix `network.` a state dict is that library's own.
"""

from inspect import signature
from types import ModuleType
from typing import Any

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from deeplab_core.config import ModelConfig
from deeplab_core.pretrained import explained_download
from deeplab_core.resample import resize
from deeplab_core.segmenter import Segmenter
from deeplab_core.stem import first_convolution, load_inflated, with_in_channels


class Adapter(Segmenter):
    """A foreign network whose full-size logits are sampled on the lattice.

    Args:
        config: A config whose `arch` names the network.
        network: The network.
        lattice_stride: Pixels between nodes.
        accepted_multiple_px: The network accepts sizes that are multiples of this.
    """

    network: Any  # a module whose attributes only its library knows

    def __init__(
        self, config: ModelConfig, network: nn.Module, *, lattice_stride: int, accepted_multiple_px: int
    ) -> None:
        super().__init__(config, lattice_stride=lattice_stride, input_multiple_px=lattice_stride)
        self.accepted_multiple_px = accepted_multiple_px
        self.network = network

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Gives logits_NKHW at input size, for any input size."""
        return self.forward_with_aux(images_NCHW)[0]

    def lattice(self, images_NCHW: Tensor) -> Tensor:
        """Gives the logits of `forward` on the nodes."""
        stride = self.lattice_stride
        return self(images_NCHW)[:, :, ::stride, ::stride].contiguous()

    def _pad(self, images_NCHW: Tensor) -> Tensor:
        """Repeats the last row and column up to an accepted size; new edges would look like content."""
        below = -images_NCHW.shape[-2] % self.accepted_multiple_px
        right = -images_NCHW.shape[-1] % self.accepted_multiple_px
        if below == 0 and right == 0:
            return images_NCHW
        return F.pad(images_NCHW, (0, right, 0, below), mode="replicate")


class SmpAdapter(Adapter):
    """A network of segmentation_models_pytorch."""

    @property
    def encoder(self) -> nn.Module:
        """The part that may come pretrained."""
        return self.network.encoder

    def forward_with_aux(self, images_NCHW: Tensor) -> tuple[Tensor, None]:
        """Gives logits at input size; these networks have no auxiliary head."""
        height, width = images_NCHW.shape[-2], images_NCHW.shape[-1]
        padded = self._pad(images_NCHW)
        logits_NKHW = self.network(padded)
        if logits_NKHW.shape[-2] != padded.shape[-2] or logits_NKHW.shape[-1] != padded.shape[-1]:
            raise ValueError(
                f"{self.config.arch} must give logits at input size, got {tuple(logits_NKHW.shape[-2:])} "
                f"for {tuple(padded.shape[-2:])} px; check `upsampling` in arch_options"
            )
        return logits_NKHW[:, :, :height, :width], None


class TorchvisionAdapter(Adapter):
    """A segmentation network of torchvision; the auxiliary head costs nothing where it is not asked for."""

    @property
    def encoder(self) -> nn.Module:
        """The part that may come pretrained."""
        return self.network.backbone

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Gives logits_NKHW at input size, for any input size."""
        if not self.config.aux_head:
            return self.network(images_NCHW)["out"]
        logits_NKHW = self.network.classifier(self.network.backbone(images_NCHW)["out"])
        return resize(logits_NKHW, images_NCHW.shape[-2], images_NCHW.shape[-1], align_corners=False)

    def forward_with_aux(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gives the logits of `forward` and those of the auxiliary head, or None without one."""
        logits = self.network(images_NCHW)
        return logits["out"], logits.get("aux")


def build_adapter(config: ModelConfig) -> Adapter:
    """Builds a network of another library.

    Args:
        config: A config with arch `smp/<Class>` or `torchvision/<name>`.

    Returns:
        The network behind our methods.
    """
    if config.provider == "smp":
        return _build_smp(config)
    return _build_torchvision(config)


def _build_smp(config: ModelConfig) -> SmpAdapter:
    smp = _import_smp(config)
    network: Any = _smp_network(smp, config, in_channels=config.in_channels, pretrained=False)
    if config.pretrained:
        with explained_download(config.backbone):
            donor: Any = _smp_network(smp, config, in_channels=3, pretrained=True)
        load_inflated(network.encoder, donor.encoder.state_dict(), bands=config.bands)
    native_stride = _native_stride(network.segmentation_head)
    accepted_multiple_px = 1
    if network.requires_divisible_input_shape:
        # DPT halves its encoder's last map once more.
        accepted_multiple_px = network.encoder.output_stride * (2 if config.arch == "smp/DPT" else 1)
    return SmpAdapter(
        config,
        network,
        # Networks coarser than stride 4 are upsampled by themselves; the lattice is never coarser than ours.
        lattice_stride=native_stride if native_stride in (1, 2, 4) else 4,
        accepted_multiple_px=accepted_multiple_px,
    )


def _native_stride(head: nn.Module) -> int:
    """Gives the input pixels per logit before the network's own last upsampling."""
    factors: list[Any] = [layer.scale_factor for layer in head.modules() if isinstance(layer, nn.Upsample)]
    return int(factors[0] if factors else getattr(head, "upsampling_factor", 1))


def _import_smp(config: ModelConfig) -> ModuleType:
    try:
        import segmentation_models_pytorch  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise ImportError(
            f"arch {config.arch!r} needs segmentation_models_pytorch, which is not installed; "
            "pip install 'terrazzo[smp]'"
        ) from error
    return segmentation_models_pytorch


def _smp_network(smp: ModuleType, config: ModelConfig, *, in_channels: int, pretrained: bool) -> nn.Module:
    names = sorted(network.__name__ for network in smp.MODEL_ARCHITECTURES_MAPPING.values())
    name = config.arch.removeprefix("smp/")
    if name not in names:
        raise ValueError(f"arch smp/<Class> must be one of {', '.join(names)}, got {config.arch!r}")
    network_class = getattr(smp, name)
    _check_smp_options(network_class, config)
    weights = (True if config.backbone.startswith("tu-") else "imagenet") if pretrained else None
    try:
        return network_class(
            encoder_name=config.backbone,
            encoder_weights=weights,
            in_channels=in_channels,
            classes=config.num_classes,
            **config.arch_options,
        )
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{config.arch} must accept backbone {config.backbone!r} and arch_options "
            f"{config.arch_options}, got: {error}; see the class's documentation"
        ) from error


def _check_smp_options(network_class: type[nn.Module], config: ModelConfig) -> None:
    """Refuses unknown keywords, which smp would swallow unseen (it hands them on to timm's encoders only)."""
    known = {
        name
        for name, parameter in signature(network_class).parameters.items()
        if parameter.kind != parameter.VAR_KEYWORD
    }
    unknown = sorted(set(config.arch_options) - known)
    if unknown and not config.backbone.startswith("tu-"):
        raise ValueError(
            f"arch_options of {config.arch} must be among {', '.join(sorted(known))}, got {unknown}; "
            "correct or remove them"
        )


def _build_torchvision(config: ModelConfig) -> TorchvisionAdapter:
    network: Any = _torchvision_network(config, pretrained=False)
    if config.in_channels != 3:
        name, stem = first_convolution(network.backbone)
        network.backbone.set_submodule(name, with_in_channels(stem, config.in_channels))
    if config.pretrained:
        with explained_download(config.backbone):
            donor: Any = _torchvision_network(config, pretrained=True)
        load_inflated(network.backbone, donor.backbone.state_dict(), bands=config.bands)
    return TorchvisionAdapter(config, network, lattice_stride=4, accepted_multiple_px=1)


def _torchvision_network(config: ModelConfig, *, pretrained: bool) -> nn.Module:
    names = torchvision.models.list_models(module=torchvision.models.segmentation)
    name = config.arch.removeprefix("torchvision/")
    if name not in names:
        raise ValueError(f"arch torchvision/<name> must be one of {', '.join(names)}, got {config.arch!r}")
    # A keyword of its own, since not every network takes it, even as False.
    auxiliary = {"aux_loss": True} if config.aux_head else {}
    try:
        return torchvision.models.get_model(
            name,
            weights=None,
            weights_backbone="DEFAULT" if pretrained else None,
            num_classes=config.num_classes,
            **auxiliary,
        )
    except NotImplementedError as error:
        raise ValueError(f"{config.arch} has no auxiliary head, got aux_head=True; leave it out") from error
