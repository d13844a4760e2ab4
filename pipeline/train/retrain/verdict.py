"""Whether a challenger takes the champion's place. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """How a model did on the frozen validation split.

    Attributes:
        miou: Mean of IoU over the classes.
        iou: Of each class by name; None for one that is neither there nor predicted.
    """

    miou: float
    iou: Mapping[str, float | None]


@dataclass(frozen=True)
class Verdict:
    """The decision.

    Attributes:
        promoted: Whether the challenger is the champion now.
        reasons: Why, in sentences with their numbers.
    """

    promoted: bool
    reasons: tuple[str, ...]


def judge(challenger: Figures, champion: Figures | None, *, margin: float, max_class_drop: float) -> Verdict:
    """Compare two models by the same tiles.

    Args:
        challenger: The new one.
        champion: The one in use; None if there is none.
        margin: By how much the challenger's mIoU must exceed the champion's.
        max_class_drop: By how much no class may fall.
    """
    if not math.isfinite(challenger.miou):
        return Verdict(False, ("the validation split must hold labelled pixels, but mIoU is undefined",))
    if champion is None:
        return Verdict(True, (f"the first of its registry, with mIoU {challenger.miou:.4f}",))
    gain = challenger.miou - champion.miou
    told = f"mIoU {challenger.miou:.4f} against {champion.miou:.4f}, {gain:+.4f}"
    if not (gain > 0 and gain >= margin):  # as good is not better: changing models has its price
        return Verdict(False, (f"{told}; it must gain {f'at least {margin:g}' if margin else 'something'}",))
    falls = tuple(
        f"{name} falls by {fall:.4f}, from {champion.iou[name]:.4f}; at most {max_class_drop:g} is allowed"
        for name, fall in _falls(challenger, champion).items()
        if fall > max_class_drop
    )
    return Verdict(not falls, falls or (told,))


def _falls(challenger: Figures, champion: Figures) -> dict[str, float]:
    """By how much each class falls; one that the challenger no longer finds falls to nothing."""
    return {
        name: before - (challenger.iou.get(name) or 0.0)
        for name, before in champion.iou.items()
        if before is not None
    }
