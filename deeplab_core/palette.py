"""Default class colours: distinct, calm and the same every time."""

import math

Color = tuple[int, int, int]

_GOLDEN_ANGLE = 137.50776405003785
_FIRST_HUE = 235.0
# Lightness and chroma (OKLCH) by turns: neighbours in hue differ in lightness too, and none is near the
# black or white that maps use for the background.
_TONES = ((0.66, 0.13), (0.80, 0.11), (0.52, 0.12), (0.73, 0.09), (0.59, 0.15))


def default_colors(num_classes: int) -> tuple[Color, ...]:
    """Gives one colour for each class; the first ones do not depend on how many follow.

    Hues step by the golden angle, which never lets two of a few classes come close.

    Args:
        num_classes: How many.

    Returns:
        Red, green and blue, 0 to 255 each.
    """
    colors: list[Color] = []
    step = 0
    while len(colors) < num_classes:
        lightness, chroma = _TONES[step % len(_TONES)]
        color = from_oklch(lightness, chroma, _FIRST_HUE + step * _GOLDEN_ANGLE)
        # With very many classes two steps can meet in the same 24 bits; the later one is passed over.
        if color not in colors:
            colors.append(color)
        step += 1
    return tuple(colors)


def from_oklch(lightness: float, chroma: float, hue_degrees: float) -> Color:
    """Converts a colour from OKLCH, with less chroma where sRGB cannot show so much of it.

    Args:
        lightness: 0 to 1, even to the eye.
        chroma: 0 is grey, 0.15 vivid.
        hue_degrees: About 27 red, 95 yellow, 145 green, 245 blue.

    Returns:
        Red, green and blue, 0 to 255 each.
    """
    while True:
        linear = _linear_rgb(lightness, chroma, math.radians(hue_degrees))
        if all(0.0 <= value <= 1.0 for value in linear):
            red, green, blue = (round(255 * _encode(value)) for value in linear)
            return red, green, blue
        chroma *= 0.95


def _linear_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """OKLab to linear sRGB, with the published matrices (Ottosson 2020)."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _encode(value: float) -> float:
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
