"""Sections about what came out of a training run: classes, confusion, the worst and the best tiles."""

import math
from collections.abc import Mapping
from typing import Any

from pipeline.report.confusion_table import confusion_section
from pipeline.report.markup import Child, Markup, element, join
from pipeline.report.pieces import section, swatch, table
from pipeline.report.training_run import StoredTraining, TilePictures, figure
from pipeline.report.wording import UNKNOWN, percent

MOST_BARS = 24
PICTURES = {"image": "imagery", "truth": "truth", "prediction": "prediction"}
SPLITS = {"val": "validation", "test": "test"}
KINDS = {"worst": "The worst", "best": "The best"}


def classes_section(run: StoredTraining) -> Markup:
    """How well each class is known."""
    result = run.result
    if not result:
        return section(
            "classes", "Classes", element("p", "Nothing was validated: no tile is in a validation split.")
        )
    columns = (
        ("IoU", "iou"),
        ("Dice", "dice"),
        ("Boundary IoU", "boundary_iou"),
        ("Found", "class_accuracy"),
    )
    figures = [(title, _by_class(result, key)) for title, key in columns]
    figures = [(title, values) for title, values in figures if values]
    counts = result.get("confusion", [])
    pixels = [sum(row) for row in counts]
    total = sum(pixels) or 1
    rows: list[list[Child]] = []
    for index, name in enumerate(run.classes):
        shown = [_share(values.get(name)) for _, values in figures]
        rows.append([join(swatch(run.colors[index]), name), *shown, percent(pixels[index] / total)])
    iou = _by_class(result, "iou")
    known = [name for name in run.classes if not math.isnan(figure(iou.get(name)))]
    ranked = sorted(known, key=lambda name: -figure(iou[name]))
    return section(
        "classes",
        "Classes",
        element(
            "ul",
            [
                _meter(name, figure(iou[name]), run.colors[run.classes.index(name)])
                for name in ranked[:MOST_BARS]
            ],
            class_="meters",
            aria_label="IoU of every class",
        ),
        table(
            f"Every class, on the {_split(run)} split",
            ("Class", *(title for title, _ in figures), "Share of the labels"),
            rows,
        ),
        _splits(run),
        lead="IoU: the area in truth and prediction over the area in either. Whole tiles were segmented by "
        "sliding crops, as a mosaic is.",
    )


def confused_section(run: StoredTraining) -> Markup:
    """What is taken for what."""
    counts = run.result.get("confusion")
    if not counts:
        return section("confusion", "Confusion", element("p", "Nothing was validated."))
    return confusion_section(run.classes, counts)


def tiles_section(run: StoredTraining) -> Markup:
    """The worst and the best tiles in pictures."""
    if not run.tiles:
        return section("tiles", "Tiles", element("p", "There are no pictures of tiles."))
    parts = []
    for kind, heading in KINDS.items():
        own = [_tile(one) for one in run.tiles if one.entry["kind"] == kind]
        if own:
            parts.append(join(element("h3", heading), own))
    legend = [element("li", swatch(color), name) for name, color in zip(run.classes, run.colors, strict=True)]
    unlabelled = element("span", class_="swatch void", aria_hidden="true")
    return section(
        "tiles",
        "Worst and best tiles",
        parts,
        element(
            "ul",
            legend,
            element("li", unlabelled, "not labelled, or no imagery"),
            class_="legend",
            aria_label="Legend",
        ),
        lead="By mean IoU over the classes of each tile. Look at the worst first: here wrong labels show as "
        "often as a wrong network.",
    )


def _tile(one: TilePictures) -> Markup:
    entry = one.entry
    row, col, height, width = entry["window"]
    told = f"mean IoU {_share(entry['miou'])}, {_share(entry['pixel_accuracy'])} of the pixels right"
    part = (
        ""
        if [height, width] == entry["tile_px"]
        else f"; shown: {height} × {width} px from row {row:,}, column {col:,}"
    )
    figures = [
        element(
            "figure",
            element(
                "img",
                src=one.pictures[name],
                alt=f"{_upper(text)} of tile {entry['id']}",
                width=width,
                height=height,
            ),
            element("figcaption", text),
        )
        for name, text in PICTURES.items()
    ]
    return element(
        "div",
        element("h4", entry["id"], element("span", told + part)),
        element("div", figures, class_="three"),
        class_="tile",
    )


def _meter(name: str, share: float, color: str) -> Markup:
    """A share of 1 as a bar; charts.bar_chart would stretch the longest over the whole width."""
    bar = element("span", style=f"width:{100 * share:.2f}%;background:{color}")
    return element(
        "li", element("span", name), element("span", percent(share)), element("div", bar, class_="track")
    )


def _by_class(result: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = result.get(key)
    if not isinstance(found, Mapping):
        found = result.get("validation", {}).get("val", {}).get(key)
    return found if isinstance(found, Mapping) else {}


def _split(run: StoredTraining) -> str:
    return "test" if list(run.report.get("validation") or ()) == ["test"] else SPLITS["val"]


def _splits(run: StoredTraining) -> Markup:
    """The means, on every split that the network did not learn from."""
    told: Mapping[str, Mapping[str, Any]] = run.report.get("validation") or {"val": run.result}
    rows = [
        (
            SPLITS.get(split, split),
            *(_share(found.get(key)) for key in ("miou", "mean_dice", "pixel_accuracy")),
            f"{sum(sum(row) for row in found.get('confusion') or ()):,}",
        )
        for split, found in told.items()
    ]
    return table("Means over the classes", ("Split", "Mean IoU", "Mean Dice", "Pixels right", "Pixels"), rows)


def _share(value: object) -> str:
    share = figure(value)
    return UNKNOWN if math.isnan(share) else percent(share)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
