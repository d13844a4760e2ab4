"""The report of an evaluation: one page, from ``report.json`` and the error map."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.raster.mosaic import Mosaic
from pipeline.report.charts import Bar, bar_chart
from pipeline.report.confusion_table import confusion_section
from pipeline.report.frame import PAGE_KEY, make_header, make_page, status_line
from pipeline.report.ground import area_unit
from pipeline.report.markup import Child, Markup, element, join
from pipeline.report.pictures import Picture, picture_of_classes, safe_color
from pipeline.report.pieces import facts, note, section, swatch, table
from pipeline.report.reliability_diagram import reliability_section
from pipeline.report.wording import UNKNOWN, duration, number, percent, plural
from pipeline.storage import Folder, split_url

REPORT_KEY = "report.json"
ERRORS_NAME = "errors.zarr"

SECTIONS = (
    ("classes", "Classes"),
    ("errors", "Error map"),
    ("confusion", "Confusion"),
    ("areas", "Areas"),
    ("reliability", "Confidence"),
    ("places", "Places"),
    ("settings", "Settings"),
)

STATUS = {
    "complete": ("Complete", "Every block of the mosaic was compared."),
    "incomplete": ("Incomplete", "Some blocks could not be compared; the figures leave them out."),
    "interrupted": ("Interrupted", "It was stopped; the figures are of the blocks compared so far."),
}

MOST_PLACES = 200
"""Rows of a breakdown on the page; the others are in report.json."""


def write_evaluation_report(output_url: str) -> None:
    """Write ``report.html`` beside an evaluation's ``report.json``."""
    folder = Folder.at(output_url)
    report = json.loads(folder.read(REPORT_KEY))
    errors = Mosaic.open(folder.child(ERRORS_NAME).url)
    picture = picture_of_classes(errors, has_overviews=False)
    folder.write(PAGE_KEY, render(report, picture, errors.layout.class_colors).encode())


def render(report: Mapping[str, Any], errors: Picture, error_colors: Sequence[str]) -> str:
    """The page as HTML."""
    name = split_url(report["mosaic"])[1]
    colors = dict(zip(report["classes"], report["colors"], strict=True))
    return make_page(
        f"{name}: evaluation",
        header=_header(report, name),
        sections=[
            _classes_section(report, colors),
            _errors_section(report, errors, error_colors),
            confusion_section(report["classes"], report["confusion"]),
            _areas_section(report, colors),
            reliability_section(report["reliability"], report["classes"]),
            _places_section(report),
            _settings_section(report),
        ],
        footer=[report["output"]],
    )


def _header(report: Mapping[str, Any], name: str) -> Markup:
    pixels = report["pixels"]
    share = pixels["labelled"] / pixels["mapped"] if pixels["mapped"] else 0.0
    split = f" · split {report['split']}" if report["split"] else ""
    return make_header(
        "evaluation",
        name,
        f"against {', '.join(report['labels'])}{split}",
        status_line(report["status"], STATUS),
        figures=[
            ("mIoU", _percent(report["miou"])),
            ("pixel accuracy", _percent(report["pixel_accuracy"])),
            ("boundary mIoU", _percent(report["boundary_miou"])),
            ("calibration error", _percent(report["reliability"]["ece"])),
            ("pixels labelled", f"{pixels['labelled']:,}"),
            ("of the map", percent(share)),
            ("time", duration(report["seconds"])),
        ],
        sections=SECTIONS,
    )


def _classes_section(report: Mapping[str, Any], colors: Mapping[str, str]) -> Markup:
    present = [name for name in report["classes"] if report["iou"][name] is not None]
    bars = [Bar(name, report["iou"][name], _percent(report["iou"][name]), colors[name]) for name in present]
    headers = ["Class", "IoU", "Dice", "Precision", "Recall", "Boundary IoU"]
    keys = ("iou", "dice", "precision", "recall", "boundary_iou")
    rows: list[list[Child]] = [
        [_named(name, colors), *[_percent(report[key][name]) for key in keys]] for name in present
    ]
    rows.append(
        [
            "Mean",
            _percent(report["miou"]),
            _percent(report["mean_dice"]),
            "",
            _percent(report["mean_accuracy"]),
            _percent(report["boundary_miou"]),
        ]
    )
    absent = [name for name in report["classes"] if name not in present]
    without = report["pixels"]["without_prediction"]
    return section(
        "classes",
        "Agreement by class",
        bar_chart(bars, title="IoU of every class") if bars else element("p", "No pixel has a label yet."),
        table("Agreement by class", headers, rows) if bars else None,
        note(
            f"Frequency-weighted IoU {_percent(report['frequency_weighted_iou'])}. "
            f"Contours are bands {report['boundary_px']} px wide."
        ),
        note(f"Neither labelled nor predicted where there are labels: {', '.join(absent)}.")
        if absent
        else None,
        note(f"{plural(without, 'labelled pixel')} without a prediction; they count as missed.")
        if without
        else None,
    )


def _errors_section(report: Mapping[str, Any], picture: Picture, colors: Sequence[str]) -> Markup:
    right, wrong = (swatch(safe_color(color)) for color in colors)
    image = element(
        "img",
        src=picture.data_uri,
        alt=f"Where the mosaic is right and wrong; {_percent(report['pixel_accuracy'])} of it is right",
        width=picture.width,
        height=picture.height,
        class_="pixelated" if max(picture.width, picture.height) < 600 else None,
    )
    shown = f"one pixel shown of every {picture.step:,} × {picture.step:,}" if picture.step > 1 else ""
    entries = [
        element("li", right, "right"),
        element("li", wrong, "wrong"),
        element("li", element("span", class_="swatch void", aria_hidden="true"), "no label"),
    ]
    return section(
        "errors",
        "Error map",
        element(
            "figure",
            image,
            element("figcaption", element("p", element("strong", "Errors"), " ", shown)),
            class_="frame",
            style=f"--aspect:{picture.width / picture.height:.5f}",
        ),
        element("ul", entries, class_="legend", aria_label="Legend"),
        note(f"The map in full is a mosaic of its own: {report['error_map']}"),
        note(f"As a GeoTIFF: {report['error_cog']}") if report["error_cog"] else None,
    )


def _areas_section(report: Mapping[str, Any], colors: Mapping[str, str]) -> Markup:
    area = report["area"]
    metric = area["unit"] == "m²"
    unit = area_unit(area["total"]) if metric and area["total"] else None
    sign, size = (unit.sign, unit.square_metres) if unit else ("px", 1.0)
    headers = ["Class", f"Mapped, {sign}", f"Estimated, {sign}", "± 95 %", "± 95 %, clusters"]
    headers += ["User's accuracy", "Producer's accuracy"]
    rows: list[list[Child]] = []
    for name, one in area["classes"].items():
        estimate = one["estimated_area"]
        rows.append(
            [
                _named(name, colors),
                number(one["mapped_area"] / size, 4),
                *[
                    UNKNOWN if estimate[key] is None else number(estimate[key] / size, 4)
                    for key in ("value", "interval_95", "cluster_interval_95")
                ],
                _with_error(one["users_accuracy"]),
                _with_error(one["producers_accuracy"]),
            ]
        )
    overall = area["overall_accuracy"]
    unsampled = area["unsampled_classes"]
    return section(
        "areas",
        "Areas",
        element(
            "p",
            "What the map shows, and what the labels say is truly there: the stratified estimator of "
            "Olofsson et al. (2014), with the map's classes as strata and labelled pixels as the sample.",
            class_="lead",
        ),
        table("Area of every class", headers, rows),
        element(
            "p",
            f"Overall accuracy {_with_error(overall)} (pixels), ± "
            f"{_percent(overall['cluster_interval_95'])} (clusters).",
        ),
        note(
            "The first interval takes every labelled pixel for a sample of its own. Neighbouring pixels "
            f"share their errors, so the second treats squares of {report['cluster_px']} px as the sample, "
            f"{plural(area['clusters'], 'of them', 'of them')}; it is the one to quote. Both hold only if "
            "the labelled places were drawn at random, not where labelling was easy."
        ),
        note(
            f"Without enough labels, and so outside the estimate: {', '.join(unsampled)}; "
            f"the estimate covers {percent(area['covered_share'])} of the map."
        )
        if unsampled
        else None,
        note(area["measured"]),
    )


def _places_section(report: Mapping[str, Any]) -> Markup:
    parts: list[Child] = []
    for key, heading in (("sources", "By file of labels"), ("regions", "By region")):
        places = report[key]
        if not places:
            continue
        rows: list[list[Child]] = [
            [
                place["name"],
                f"{place['pixels']:,}",
                _percent(place["miou"]),
                _percent(place["mean_dice"]),
                _percent(place["pixel_accuracy"]),
            ]
            for place in sorted(places, key=lambda one: one["miou"])[:MOST_PLACES]
        ]
        headers = ["Place", "Pixels", "mIoU", "Mean Dice", "Pixel accuracy"]
        more = len(places) - len(rows)
        parts.append(table(heading, headers, rows))
        parts.append(note(f"The worst first; {more} more are in report.json." if more else None))
    return section("places", "Places", *(parts or [element("p", "No pixel has a label yet.")]))


def _settings_section(report: Mapping[str, Any]) -> Markup:
    shown: list[tuple[str, Child]] = [
        (name, json.dumps(value, ensure_ascii=False)) for name, value in report["settings"].items()
    ]
    failures = [f"{one['block']}: {one['reason']}" for one in report["failures"]]
    return section(
        "settings",
        "Settings",
        facts([("blocks", f"{report['blocks']['done']:,} of {report['blocks']['total']:,}"), *shown]),
        [note(failure) for failure in failures],
    )


def _named(name: str, colors: Mapping[str, str]) -> Markup:
    return join(swatch(safe_color(colors[name])), name)


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else percent(share)


def _with_error(estimate: Mapping[str, float | None]) -> str:
    if estimate["value"] is None:
        return UNKNOWN
    return f"{percent(estimate['value'])} ± {_percent(estimate['interval_95'])}"
