"""What label values mean: classes by name, and the class of every raw value. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deeplab_core.class_colors import class_colors
from pipeline.errors import SettingsError
from pipeline.train.tiles.settings import MOST_CLASSES, LabelsSettings
from pipeline.train.tiles.tile_set import IGNORE

BACKGROUND = "background"


@dataclass(frozen=True)
class Meaning:
    """What the labels of a set mean.

    Attributes:
        classes: Names, by index.
        colors: ``#rrggbb`` of each class.
        values: Class of every raw value that is allowed; ``IGNORE`` for one that means no label.
        ignore: Raw values that mean: not labelled.
        mapped: Raw values that somebody named: they count even where a raster declares them as nodata.
        other: Class of every other value, or None.
        property: Of GeoJSON, the property that holds the class.
        outside: Class of pixels that no polygon covers, or ``IGNORE``.
    """

    classes: tuple[str, ...]
    colors: tuple[str, ...]
    values: Mapping[int, int]
    ignore: tuple[int, ...]
    mapped: frozenset[int]
    other: int | None
    property: str
    outside: int


def resolve_meaning(labels: LabelsSettings, classes: Sequence[str] | None, *, drawn: bool) -> Meaning:
    """The classes and values that settings describe.

    Args:
        labels: The settings.
        classes: The model's classes in their order, or None to follow the labels.
        drawn: Whether all labels are polygons, so that no value 0 lies between them.
    """
    named = [labels.values[value] for value in sorted(labels.values)]
    named += [name for name in (labels.other, labels.outside) if name is not None]
    order = tuple(classes) if classes else _order(labels, named, drawn=drawn)
    strangers = [name for name in dict.fromkeys([*named, *labels.colors]) if name not in order]
    if strangers:
        raise SettingsError(
            f"labels.values, other, outside and colors must name classes of the model, which are "
            f"{', '.join(order)}; got {', '.join(strangers)}"
        )
    if len(order) > MOST_CLASSES or len(set(order)) < len(order):
        raise SettingsError(
            f"classes must be at most {MOST_CLASSES} different names, got {len(order)}: {', '.join(order)}"
        )
    values = {value: order.index(name) for value, name in labels.values.items()}
    values |= dict.fromkeys(labels.ignore, IGNORE)
    if labels.other is None:
        # A value that nobody names is its own class, unless that class already has a value of its own:
        # where 255 is vessel, class 1, a 1 is a mistake.
        taken = set(values.values())
        values |= {index: index for index in range(len(order)) if index not in values and index not in taken}
    return Meaning(
        order,
        _colors(order, labels.colors),
        dict(sorted(values.items())),
        labels.ignore,
        frozenset(labels.values),
        None if labels.other is None else order.index(labels.other),
        labels.property,
        IGNORE if labels.outside is None else order.index(labels.outside),
    )


def _colors(classes: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...]:
    """``#rrggbb`` of each class: as given, else the customary ones."""
    chosen = (f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in class_colors(classes))
    return tuple(given.get(name, color).lower() for name, color in zip(classes, chosen, strict=True))


def _order(labels: LabelsSettings, named: Sequence[str], *, drawn: bool) -> tuple[str, ...]:
    order = list(dict.fromkeys(named))
    if not order:
        raise SettingsError(
            "labels.values must name the classes, such as {1: water}, or model.classes list them"
        )
    zero_is_free = 0 not in labels.values and 0 not in labels.ignore and labels.other is None
    if zero_is_free and not drawn and BACKGROUND not in order:
        order.insert(0, BACKGROUND)
    return tuple(order)
