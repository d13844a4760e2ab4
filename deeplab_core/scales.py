"""Sizes of scaled crops, as plain arithmetic that settings checks can use without torch.

A crop of k·m + 1 px has a feature on pixels 0, m, 2m, … and on its last one, where m is the model's
`input_multiple_px` (its output stride). DeepLab's scaled size (base − 1)·s + 1 keeps that only for scales s
with (base − 1)·s divisible by m; every other size would shift the features and blur the mean over scales.
"""

import math

_TOLERANCE_PX = 1e-6  # scales are written as decimals: 1200·1.1 is 1320.0000000000002


def scaled_size_px(size_px: int, scale: float, output_stride: int) -> int:
    """Gives DeepLab's official size of a scaled crop, (size_px − 1)·scale + 1.

    Args:
        size_px: Size of the unscaled crop, k·output_stride + 1.
        scale: Factor.
        output_stride: What the features' distance in pixels is, `input_multiple_px` of a model.

    Returns:
        The size in pixels, again a multiple of output_stride plus 1.

    Raises:
        ValueError: The crop or the scale does not fit; the nearest that do are named.
    """
    if output_stride < 1 or size_px <= output_stride or (size_px - 1) % output_stride:
        below = max((size_px - 1) // max(output_stride, 1), 1) * output_stride + 1
        raise ValueError(
            f"crop size must be k·{output_stride} + 1 px with k ≥ 1, so that features fall on its pixels, "
            f"got {size_px} px; use {below} or {below + output_stride} px"
        )
    if not (math.isfinite(scale) and scale > 0.0):
        raise ValueError(f"scale must be a positive number, got {scale}")
    distance_px = round((size_px - 1) * scale)
    is_whole = abs((size_px - 1) * scale - distance_px) < _TOLERANCE_PX
    if not is_whole or distance_px == 0 or distance_px % output_stride:
        nearest = " or ".join(repr(legal) for legal in legal_scales(size_px, output_stride, near=scale))
        raise ValueError(
            f"scale must make (size − 1)·scale a multiple of {output_stride}, got scale {scale:g} for crops "
            f"of {size_px} px, which gives {(size_px - 1) * scale:g}; use {nearest}"
        )
    return distance_px + 1


def legal_scales(size_px: int, output_stride: int, *, near: float) -> tuple[float, ...]:
    """Gives the legal scales nearest to a wish, at most one on either side.

    Args:
        size_px: Size of the unscaled crop, k·output_stride + 1.
        output_stride: As for `scaled_size_px`.
        near: The scale wished for.

    Returns:
        The nearest legal scale below and above, or the wish alone if it is legal.
    """
    num_steps = (size_px - 1) // output_stride  # legal scales are whole multiples of 1 / num_steps
    wish = near * num_steps
    tolerance = _TOLERANCE_PX / output_stride
    below, above = math.floor(wish + tolerance), math.ceil(wish - tolerance)
    return tuple(step / num_steps for step in sorted({below, above}) if step > 0)
