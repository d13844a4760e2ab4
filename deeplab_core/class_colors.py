"""Colours that maps customarily give to what classes are named after: water blue, forests green.

A legend that has to be looked up again and again is a bad one, so only classes of other names take the
next of `default_colors`.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

from deeplab_core.palette import Color, default_colors, from_oklch

_NEAR = 40.0
"""Distance in RGB below which two colours are hard to tell apart on a map."""

# Lightness, chroma and hue (OKLCH), and the words that mean it.
_CUSTOMS: tuple[tuple[tuple[float, float, float], str], ...] = (
    ((0.62, 0.13, 245), "water river lake sea ocean stream pond reservoir vein"),
    ((0.68, 0.09, 195), "wetland marsh swamp bog mangrove"),
    ((0.52, 0.12, 148), "forest tree wood woodland woody"),
    ((0.75, 0.14, 135), "vegetation grass grassland meadow pasture shrub shrubland herbaceous plant"),
    ((0.84, 0.12, 95), "field crop cropland agriculture agricultural farmland parcel fat"),
    ((0.60, 0.16, 27), "built building town city urban settlement impervious roof house vessel artery"),
    ((0.62, 0.02, 260), "road street pavement railway rail path"),
    ((0.70, 0.07, 65), "bare barren soil sand desert rock beach earth"),
    ((0.90, 0.04, 225), "snow ice glacier"),
    ((0.84, 0.01, 250), "cloud"),
    ((0.42, 0.02, 285), "shadow background"),
    ((0.55, 0.16, 305), "nucleus nuclei cell"),
    ((0.56, 0.17, 5), "tumour tumor cancer lesion"),
    ((0.80, 0.08, 350), "tissue stroma epithelium"),
)
_COLOR_OF_WORD = {word: from_oklch(*tone) for tone, words in _CUSTOMS for word in words.split()}


def class_colors(classes: Sequence[str]) -> tuple[Color, ...]:
    """Gives one colour for each class, no two the same.

    Args:
        classes: Their names.

    Returns:
        Red, green and blue, 0 to 255 each.
    """
    chosen: dict[int, Color] = {}
    for index, name in enumerate(classes):
        color = _customary(name)
        if color is not None and color not in chosen.values():
            chosen[index] = color
    spare = _far_from(tuple(chosen.values()), len(classes))
    return tuple(chosen[index] if index in chosen else next(spare) for index in range(len(classes)))


def _customary(name: str) -> Color | None:
    """The colour of the first word that has one, "trees" being "tree"."""
    for word in re.findall(r"[^\W\d_]+", name.lower()):
        for form in (word, word.removesuffix("s"), word.removesuffix("es")):
            if form in _COLOR_OF_WORD:
                return _COLOR_OF_WORD[form]
    return None


def _far_from(taken: Sequence[Color], wanted: int) -> Iterator[Color]:
    """Default colours unlike those taken; when they run out, those that merely differ."""
    candidates = default_colors(4 * (wanted + len(taken)))
    far = [color for color in candidates if all(_distance(color, other) >= _NEAR for other in taken)]
    near = [color for color in candidates if color not in far and color not in taken]
    return itertools.chain(far, near)


def _distance(one: Color, other: Color) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
