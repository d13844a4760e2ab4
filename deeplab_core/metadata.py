"""What a checkpoint says about its weights: `model.json`, readable without torch.

Planning checks bands, classes and statistics long before any network is built.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from deeplab_core.config import ModelConfig

FORMAT = "terrazzo-model"
FORMAT_VERSION = 1

WEIGHTS_NAME = "model.safetensors"
METADATA_NAME = "model.json"


class CheckpointError(ValueError):
    """A checkpoint is incomplete, damaged or does not say what it must."""


def _parse_color(color: object) -> object:
    if not isinstance(color, str):
        return color
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        raise ValueError(f"a colour must be '#rrggbb' or three numbers from 0 to 255, got {color!r}")
    return tuple(bytes.fromhex(color[1:]))


Channel = Annotated[int, Field(ge=0, le=255)]
ClassColor = Annotated[tuple[Channel, Channel, Channel], BeforeValidator(_parse_color)]


class Lineage(BaseModel):
    """Where a model comes from, as its training saw it.

    Attributes:
        parent: The model it was fine-tuned from, by its sha256 or registry name; None for a first one.
        data: What it was trained on, in the words of whoever trained it.
        metrics: What it reached, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: str | None = None
    data: JsonValue = None
    metrics: dict[str, JsonValue] = Field(default_factory=dict)


class CheckpointMetadata(BaseModel):
    """All of `model.json`.

    Attributes:
        format: Always `terrazzo-model`.
        format_version: Version of this layout.
        config: The graph.
        colors: Red, green and blue of each class; `#rrggbb` is understood too.
        bands: Names of the input bands in order.
        mean: Mean of each band in the raster's own units, subtracted before the network.
        std: Standard deviation of each band, divided by.
        sha256: Digest of `model.safetensors`, the identity of the model.
        calibrated: Whether that holds what 8-bit inference must know, too.
        lineage: Where it comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    config: ModelConfig
    colors: tuple[ClassColor, ...]
    bands: tuple[Annotated[str, Field(min_length=1)], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    calibrated: bool = False
    lineage: Lineage = Lineage()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.config.classes

    @model_validator(mode="after")
    def _fits_the_graph(self) -> Self:
        for name, values in (("bands", self.bands), ("mean", self.mean), ("std", self.std)):
            _check_length(name, values, self.config.in_channels, "input bands")
        _check_length("colors", self.colors, self.config.num_classes, "classes")
        if len(set(self.bands)) != len(self.bands):
            raise ValueError(f"bands must be named differently, got {list(self.bands)}")
        if self.config.bands is not None and self.config.bands != self.bands:
            raise ValueError(
                f"bands must be those of the model's config, {list(self.config.bands)}, "
                f"got {list(self.bands)}"
            )
        if not all(math.isfinite(value) for value in self.mean):
            raise ValueError(f"mean must be finite for every band, got {list(self.mean)}")
        if not all(math.isfinite(value) and value > 0.0 for value in self.std):
            raise ValueError(f"std must be finite and positive for every band, got {list(self.std)}")
        return self

    def to_json(self) -> bytes:
        """Gives the bytes of `model.json`: the same for the same content."""
        content = self.model_dump(mode="json")
        if not self.calibrated:
            del content["calibrated"]  # older versions know no such field
        content["colors"] = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in self.colors]
        return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, *, where: str) -> Self:
        """Reads `model.json`.

        Args:
            data: Its bytes.
            where: Where they were read, for messages.

        Returns:
            The metadata.

        Raises:
            CheckpointError: It is not what it must be; the message names every field at fault.
        """
        try:
            content = json.loads(data)
        except ValueError as error:
            raise CheckpointError(f"{where} must be JSON, got {error}; write the checkpoint anew") from error
        _check_format(content, where)
        return cls.of(content, where=where)

    @classmethod
    def of(cls, content: Mapping[str, Any], *, where: str) -> Self:
        """Builds metadata from its fields.

        Args:
            content: The fields.
            where: What they belong to, for messages.

        Returns:
            The metadata.

        Raises:
            CheckpointError: Some fields do not fit; the message names every one.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            faults = "; ".join(_sentence(fault["loc"], fault["msg"]) for fault in error.errors())
            raise CheckpointError(f"{where} does not fit: {faults}") from error


def _check_format(content: object, where: str) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f'{where} must say "format": "{FORMAT}", got {got!r}; is it another program\'s?'
        )
    version = content.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"format_version in {where} must be a positive integer, got {version!r}")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"format_version in {where} must be at most {FORMAT_VERSION}, got {version}: it was written by a "
            "newer version of this software; update it here"
        )


def _check_length(name: str, values: Sequence[object], length: int, of_what: str) -> None:
    if len(values) != length:
        raise ValueError(f"{name} must have one entry for each of the {length} {of_what}, got {len(values)}")


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    path = ".".join(str(part) for part in location)
    message = message.removeprefix("Value error, ")
    return f"{path}: {message}" if path else message
