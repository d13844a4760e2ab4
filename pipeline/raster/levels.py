"""Which level of a pyramid is read: by its number, or by the size of its pixels. Pure."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import SettingsError

logger = logging.getLogger(__name__)

TOLERANCE = 1.1
"""A level whose pixels are this much larger than wished still counts: scanners say 0.2527 µm for 0.25."""

MUCH_FINER = 1.5
"""A level whose pixels are this much smaller than wished is worth a warning: nothing is resampled."""

MICROMETRES = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "inch": 25400.0,
}
"""Units of length under a microscope, as OME-NGFF spells them, in µm."""


@dataclass(frozen=True)
class LevelWish:
    """What the settings ask for; at most one of the three is given.

    Attributes:
        number: ``source.level``, 0 for the finest.
        resolution: ``source.resolution``, side of a pixel in units of the source's coordinates.
        um_per_px: ``source.um_per_px``, the same in µm.
    """

    number: int | None = None
    resolution: float | None = None
    um_per_px: float | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything is asked for."""
        return (self.number, self.resolution, self.um_per_px) != (None, None, None)


@dataclass(frozen=True)
class Level:
    """One level of a pyramid.

    Attributes:
        name: How people find it again.
        height: Rows.
        width: Columns.
        pixel_size: Side of a pixel in units of the source's coordinates; None where it is not known.
    """

    name: str
    height: int
    width: int
    pixel_size: float | None


def choose_level(levels: Sequence[Level], wish: LevelWish, *, unit: str | None, where: str) -> int:
    """The index of the level to read.

    By size, it is the coarsest level whose pixels are no larger than wished times ``TOLERANCE``. A source
    that is coarser than that is refused: what the model is to see is not there.

    Args:
        levels: From the finest.
        wish: What the settings ask for; nothing: the finest.
        unit: Unit of the pixel sizes, where it is one of length.
        where: The source, for errors.
    """
    if wish.number is not None:
        if wish.number >= len(levels):
            raise SettingsError(
                f"source.level must be below {len(levels)}, got {wish.number}; {where} has {_listing(levels)}"
            )
        return wish.number
    size = _wished_size(wish, unit, where)
    if size is None:
        return 0
    sizes = [level.pixel_size for level in levels]
    fitting = [(known, -index) for index, known in enumerate(sizes) if known and known <= size * TOLERANCE]
    if not fitting:
        known = "it does not say how large its pixels are" if None in sizes else f"it has {_listing(levels)}"
        raise SettingsError(
            f"the source must have a level with pixels of {size:g} {unit or 'units'} or finer, but {known}: "
            f"{where}; give source.level to read another"
        )
    chosen_size, negative_index = max(fitting)
    if chosen_size * MUCH_FINER < size:
        logger.warning(
            "level %d has pixels of %g where %g was asked for; the next one is too coarse, and nothing is "
            "resampled: the model sees %.3g times finer pixels",
            -negative_index, chosen_size, size, size / chosen_size,
        )  # fmt: skip
    return -negative_index


def _wished_size(wish: LevelWish, unit: str | None, where: str) -> float | None:
    if wish.um_per_px is None:
        return wish.resolution
    if unit not in MICROMETRES:
        raise SettingsError(
            f"source.um_per_px needs a source that tells its pixels' size in a unit of length, but {where} "
            "does not; give source.level, or source.resolution in units of its CRS"
        )
    return wish.um_per_px / MICROMETRES[unit]


def _listing(levels: Sequence[Level]) -> str:
    sizes = ("" if level.pixel_size is None else f", {level.pixel_size:g} a pixel" for level in levels)
    return "; ".join(
        f"level {number}{f' ({level.name})' if level.name else ''}: {level.height} × {level.width} px{size}"
        for number, (level, size) in enumerate(zip(levels, sizes, strict=True))
    )
