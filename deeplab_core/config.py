"""What a model is, as plain data: everything that decides its graph, and nothing that decides a run.

Imports no torch, so that planning and settings checks stay light.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEEPLAB_ARCHS = ("deeplabv1", "deeplabv2", "deeplabv3", "deeplabv3plus")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
OWN_BACKBONES = (*RESNETS, "mobilenet_v3_large", "xception65")

JsonScalar = bool | int | float | str | None

# The rates of v3 and v3+ belong to an output stride; other strides keep the field of view in pixels.
_ASPP_RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
_ARCH_RATES = {"deeplabv1": (12,), "deeplabv2": (6, 12, 18, 24)}
_NUM_RATES = {"deeplabv1": 1, "deeplabv2": 4, "deeplabv3": 3, "deeplabv3plus": 3}

# Options that act only in some architectures. Elsewhere they must keep their default: a setting that
# silently does nothing is a mistake nobody finds.
_ACTS_ONLY_IN: dict[str, tuple[str, ...]] = {
    "rates": DEEPLAB_ARCHS,
    "output_stride": DEEPLAB_ARCHS,
    "multi_grid": DEEPLAB_ARCHS,
    "dilate_first": DEEPLAB_ARCHS,
    "align_corners": DEEPLAB_ARCHS,
    "backbone_bn_momentum": DEEPLAB_ARCHS,
    "backbone_bn_eps": DEEPLAB_ARCHS,
    "head_bn_momentum": DEEPLAB_ARCHS,
    "head_bn_eps": DEEPLAB_ARCHS,
    "aspp_dropout": ("deeplabv1", "deeplabv3", "deeplabv3plus"),
    "separable": ("deeplabv3", "deeplabv3plus"),
    "separable_mid_norm": ("deeplabv3", "deeplabv3plus"),
    "image_pooling": ("deeplabv3", "deeplabv3plus"),
    "head_conv": ("deeplabv3",),
    "aspp_refine": ("deeplabv3plus",),
    "decoder_convs": ("deeplabv3plus",),
    "decoder_separable": ("deeplabv3plus",),
}

# Fields that follow from others where they are left out or None.
_RESOLVED = ("rates", "decoder_separable", "backbone", "in_channels")

# Constructor keywords of smp that this config already decides.
_SMP_DECIDED = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")


class ModelConfig(BaseModel):
    """The graph of one model.

    What is left out is resolved when the config is made, so that a stored config says everything:
    `rates` by architecture and output stride, `decoder_separable` from `separable`, `in_channels` from
    `bands`, and `backbone` from the name of a torchvision architecture.

    Attributes:
        arch: `deeplabv1` (large field of view), `deeplabv2` (ASPP as a sum), `deeplabv3`,
            `deeplabv3plus`; or `smp/<Class>` and `torchvision/<name>`, networks of those libraries.
        backbone: `resnet18/34/50/101`, `mobilenet_v3_large` (torchvision's code and names), `xception65`
            or `timm/<name>`. With `smp/<Class>` it is smp's `encoder_name`.
        classes: Names of the classes, in the order of the logits.
        in_channels: Number of input bands.
        bands: Names of the input bands in order, if known. `red`, `green` and `blue` (or `r`, `g`, `b`)
            tell a pretrained stem where its weights belong.
        output_stride: Input pixels per feature of the encoder, 8, 16 or 32.
        rates: Dilations of the atrous branches. Left out (or None): v3 and v3+ take 6/12/18 at output
            stride 16, 12/24/36 at 8 and 3/6/9 at 32; v2 takes 6/12/18/24 and v1 takes 12 at any stride.
        multi_grid: Factors on the dilation of each unit of the last ResNet stage, its first unit
            included: (1, 2, 4) at output stride 16 gives dilations 2, 4 and 8.
        separable: Depthwise separable 3×3 convolutions in ASPP and (unless `decoder_separable` differs)
            decoder.
        image_pooling: Image-level branch of ASPP: `global` over whatever is fed, `fixed` over windows of
            the training crop's size, `none`.
        image_pooling_crop_px: Training crop whose size `fixed` keeps.
        aspp_dropout: Dropout after the ASPP projection (v1: after its two convolutions).
        aux_head: An auxiliary FCN head on the features before the last stage, for training.
        align_corners: How every resize maps its grid: True keeps corners, exact for inputs of
            k·output_stride + 1 px; False is torchvision's and VainF's way.
        pretrained: Start the encoder from its library's published weights. Read by `build_model` only.
        dilate_first: Dilation of the first, formerly strided, convolution of a dilated stage: `previous`
            leaves pretrained features exact; `all` is smp's rule and that of torchvision's dilated
            MobileNetV3.
        separable_mid_norm: Batch norm and ReLU between depthwise and pointwise; smp has none.
        decoder_convs: Number of 3×3 convolutions of the v3+ decoder.
        decoder_separable: Whether those are separable; left out, as `separable`.
        aspp_refine: smp's extra separable 3×3 convolution between ASPP and upsampling.
        head_conv: torchvision's extra 3×3 convolution between ASPP and logits in v3.
        backbone_bn_momentum: Batch-norm momentum of the encoder; None keeps its library's.
        backbone_bn_eps: Batch-norm epsilon of the encoder; None keeps its library's.
        head_bn_momentum: Batch-norm momentum of the heads.
        head_bn_eps: Batch-norm epsilon of the heads.
        arch_options: Plain constructor keywords for `smp/<Class>`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str = "deeplabv3plus"
    backbone: str = "resnet50"
    classes: tuple[str, ...] = Field(min_length=1)
    in_channels: int = Field(default=3, ge=1)
    bands: tuple[str, ...] | None = None
    output_stride: Literal[8, 16, 32] = 16
    rates: tuple[int, ...] = _ASPP_RATES[16]
    multi_grid: tuple[int, ...] | None = None
    separable: bool = False
    image_pooling: Literal["global", "fixed", "none"] = "global"
    image_pooling_crop_px: int = Field(default=513, ge=1)
    aspp_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    aux_head: bool = False
    align_corners: bool = True
    pretrained: bool = False

    dilate_first: Literal["previous", "all"] = "previous"
    separable_mid_norm: bool = True
    decoder_convs: int = Field(default=2, ge=1)
    decoder_separable: bool = False
    aspp_refine: bool = False
    head_conv: bool = False
    backbone_bn_momentum: float | None = Field(default=None, gt=0.0, le=1.0)
    backbone_bn_eps: float | None = Field(default=None, gt=0.0)
    head_bn_momentum: float = Field(default=0.1, gt=0.0, le=1.0)
    head_bn_eps: float = Field(default=1e-5, gt=0.0)
    arch_options: dict[str, JsonScalar | tuple[JsonScalar, ...]] = Field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes, hence of logit channels."""
        return len(self.classes)

    @property
    def provider(self) -> Literal["deeplab", "smp", "torchvision"]:
        """Whose graph this is: our own, or that of another library behind an adapter."""
        return _provider_of(self.arch)

    @model_validator(mode="before")
    @classmethod
    def _resolve_what_is_left_out(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        resolved = {name: value for name, value in data.items() if value is not None or name not in _RESOLVED}
        arch = resolved.get("arch", cls.model_fields["arch"].default)
        stride = resolved.get("output_stride", cls.model_fields["output_stride"].default)
        if arch in DEEPLAB_ARCHS and (arch in _ARCH_RATES or stride in _ASPP_RATES):
            resolved.setdefault("rates", _ARCH_RATES.get(arch) or _ASPP_RATES[stride])
        if arch == "deeplabv3plus":
            resolved.setdefault("decoder_separable", resolved.get("separable", False))
        if isinstance(arch, str) and arch.startswith("torchvision/") and "_" in arch:
            resolved.setdefault("backbone", _torchvision_backbone(arch))
        if isinstance(resolved.get("bands"), list | tuple):
            resolved.setdefault("in_channels", len(resolved["bands"]))
        return resolved

    @field_validator("classes", "bands")
    @classmethod
    def _names_are_distinct(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is None:
            return None
        if any(not name.strip() for name in names):
            raise ValueError(f"every name must have a visible character, got {list(names)}")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"names must be unique, got {repeated} more than once; rename or remove them")
        return names

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_arch()
        if self.bands is not None and len(self.bands) != self.in_channels:
            raise ValueError(
                f"bands must name each of the {self.in_channels} input channels, got {len(self.bands)} "
                f"names {list(self.bands)}; set in_channels={len(self.bands)} or name them all"
            )
        for option, archs in _ACTS_ONLY_IN.items():
            default = self._default_of(option)
            if self.arch not in archs and getattr(self, option) != default:
                raise ValueError(
                    f"{option} acts only in {', '.join(archs)}, got {option}={getattr(self, option)!r} with "
                    f"arch={self.arch!r}; leave it at {default!r}"
                )
        if self.arch_options and self.provider != "smp":
            raise ValueError(
                f"arch_options are constructor keywords of smp/<Class>, got {sorted(self.arch_options)} with "
                f"arch={self.arch!r}; use the other fields of ModelConfig"
            )
        match self.provider:
            case "deeplab":
                self._check_deeplab()
            case "smp":
                self._check_smp()
            case "torchvision":
                self._check_torchvision()
        return self

    def _default_of(self, option: str) -> object:
        return type(self).model_fields[option].default

    def _check_arch(self) -> None:
        prefix, _, name = self.arch.partition("/")
        if self.arch not in DEEPLAB_ARCHS and not (prefix in ("smp", "torchvision") and name.isidentifier()):
            raise ValueError(
                f"arch must be one of {', '.join(DEEPLAB_ARCHS)}, smp/<Class> or torchvision/<name>, "
                f"got {self.arch!r}"
            )

    def _check_deeplab(self) -> None:
        is_timm = self.backbone.startswith("timm/") and len(self.backbone) > len("timm/")
        if self.backbone not in OWN_BACKBONES and not is_timm:
            raise ValueError(
                f"backbone of {self.arch} must be one of {', '.join(OWN_BACKBONES)} or timm/<name>, "
                f"got {self.backbone!r}"
            )
        if len(self.rates) != _NUM_RATES[self.arch] or min(self.rates) < 1:
            raise ValueError(
                f"rates of {self.arch} must be {_NUM_RATES[self.arch]} positive dilations, got "
                f"{list(self.rates)}; leave rates out for the published ones"
            )
        if self.dilate_first == "all" and self.backbone not in (*RESNETS, "mobilenet_v3_large"):
            raise ValueError(
                f"dilate_first='all' is known for ResNets and mobilenet_v3_large, got backbone="
                f"{self.backbone!r}, whose own rule is 'previous'"
            )
        self._check_multi_grid()

    def _check_multi_grid(self) -> None:
        if self.multi_grid is None:
            return
        if self.backbone not in RESNETS:
            raise ValueError(
                f"multi_grid needs one of {', '.join(RESNETS)}, got backbone={self.backbone!r}; leave it out"
            )
        num_units = 2 if self.backbone == "resnet18" else 3
        if len(self.multi_grid) != num_units or min(self.multi_grid) < 1:
            raise ValueError(
                f"multi_grid of {self.backbone} must be {num_units} positive factors, one for each unit of "
                f"its last stage, got {list(self.multi_grid)}"
            )

    def _check_smp(self) -> None:
        decided = sorted(set(self.arch_options) & set(_SMP_DECIDED))
        if decided:
            raise ValueError(
                f"arch_options must not repeat what the config itself decides, got {decided} with "
                f"arch={self.arch!r}; use backbone, classes, in_channels and pretrained"
            )
        if self.aux_head:
            raise ValueError(f"aux_head is not offered by smp networks, got it with arch={self.arch!r}")

    def _check_torchvision(self) -> None:
        expected = _torchvision_backbone(self.arch)
        if self.backbone != expected:
            raise ValueError(
                f"backbone of {self.arch} is {expected!r} by its name, got {self.backbone!r}; leave it out"
            )


def _provider_of(arch: str) -> Literal["deeplab", "smp", "torchvision"]:
    if arch.startswith("smp/"):
        return "smp"
    return "torchvision" if arch.startswith("torchvision/") else "deeplab"


def _torchvision_backbone(arch: str) -> str:
    """`torchvision/fcn_resnet50` → `resnet50`."""
    return arch.partition("/")[2].partition("_")[2]
