"""The demo's page: what was seen, what was made of it, how good that is, and how to go on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipeline.demo.pictures import RIGHT_COLOR, WRONG_COLOR, DemoPictures
from pipeline.report.charts import Bar, bar_chart
from pipeline.report.chips import chips
from pipeline.report.confusion_table import confusion_section
from pipeline.report.frame import make_header, make_page
from pipeline.report.markup import Child, Markup, element, join
from pipeline.report.pictures import Picture, safe_color
from pipeline.report.pieces import code, note, section, swatch, table
from pipeline.report.wording import UNKNOWN, duration, number, percent, plural

SECTIONS = (
    ("pictures", "Map"),
    ("unseen", "Unseen part"),
    ("comparison", "Comparison"),
    ("confusion", "Confusion"),
    ("time", "Time"),
    ("reports", "Reports"),
    ("open", "Open"),
)

NETWORK = "DeepLabv3+"
STEP_COLOR = "#1f5d5b"


@dataclass(frozen=True)
class DemoResult:
    """All that the page tells.

    Attributes:
        folder: Where everything lies, as the user named it.
        side: Of the landscape, in px.
        evaluation: ``report.json`` of the evaluation on the part held out.
        baselines: What ``baseline.compare`` found.
        training: ``report.json`` of the training run.
        steps: The record of every step.
        pictures: What is shown.
    """

    folder: Path
    side: int
    evaluation: Mapping[str, Any]
    baselines: Mapping[str, Any]
    training: Mapping[str, Any]
    steps: Mapping[str, Mapping[str, Any]]
    pictures: DemoPictures

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        return list(self.evaluation["classes"])

    @property
    def colors(self) -> dict[str, str]:
        """Colour of each class."""
        found = zip(self.classes, self.evaluation["colors"], strict=True)
        return {name: safe_color(color) for name, color in found}


def render(result: DemoResult) -> str:
    """The page as HTML."""
    return make_page(
        "Terrazzo's demo",
        header=_header(result),
        sections=[
            _pictures_section(result),
            _unseen_section(result),
            _comparison_section(result),
            confusion_section(result.classes, result.evaluation["confusion"]),
            _time_section(result),
            _reports_section(),
            _open_section(result),
        ],
        footer=[str(result.folder)],
        styles=[files("pipeline.demo").joinpath("demo.css").read_text("utf-8")],
    )


def _header(result: DemoResult) -> Markup:
    evaluation, rival = result.evaluation, result.baselines["logistic_regression"]
    total_s = sum(record["seconds"] for record in result.steps.values())
    weights = [_share(result, index) for index in range(len(result.classes))]
    return make_header(
        "demo",
        "A landscape, learnt and mapped",
        f"{result.side:,} × {result.side:,} px of invented land, its west learnt from random "
        "weights, all of it mapped on Ray, its east judged by labels that no training saw.",
        figures=[
            ("mIoU on the unseen part", _percent(evaluation["miou"])),
            ("of pixel-wise regression", _percent(rival["miou"])),
            ("pixel accuracy", _percent(evaluation["pixel_accuracy"])),
            ("trained in", duration(result.training["seconds"])),
            ("everything took", duration(total_s)),
        ],
        sections=SECTIONS,
        band=chips("demo", list(result.colors.values()), weights),
    )


def _pictures_section(result: DemoResult) -> Markup:
    pictures = result.pictures
    scene = _crossed(pictures.scene, "The scene in natural colours, with clouds and a ragged edge", result)
    listed = ", ".join(f"{name} {percent(_share(result, i))}" for i, name in enumerate(result.classes))
    classes = _crossed(pictures.classes, f"Map of classes; of the labels: {listed}", result)
    return section(
        "pictures",
        "The scene and its classes",
        element(
            "div",
            element("figure", scene, element("figcaption", element("p", element("strong", "Scene")))),
            element("figure", classes, element("figcaption", element("p", element("strong", "Classes")))),
            class_="pair",
        ),
        _legend(result),
        note("West of the first line the network learnt; the strip between the lines belongs to neither."),
    )


def _crossed(picture: Picture, alt: str, result: DemoResult) -> Markup:
    """A picture of the whole scene with the borders of what was learnt and what was held out."""
    places = result.pictures.trained_share, result.pictures.held_out_share
    cuts = [element("span", class_="cut", style=f"left:{100 * place:.3f}%") for place in places]
    return element(
        "div",
        element(
            "div",
            _image(picture, alt),
            cuts,
            element("span", "learnt", class_="side", style="left:8px"),
            element("span", "unseen", class_="side", style="right:8px"),
            class_="crossed",
        ),
        class_="frame",
        style=f"--aspect:{picture.width / picture.height:.5f}",
    )


def _unseen_section(result: DemoResult) -> Markup:
    pictures = result.pictures
    shown = (
        (pictures.truth, "Truth", "The exact labels of the part held out"),
        (pictures.map, "Map", "What the network made of the part held out"),
        (pictures.errors, "Errors", "Where the two differ"),
    )
    (height, width), step = pictures.held_out_shape, pictures.truth.step
    errors = [
        element("li", swatch(RIGHT_COLOR), "right"),
        element("li", swatch(WRONG_COLOR), "wrong"),
        element("li", element("span", class_="swatch void", aria_hidden="true"), "no data, or under clouds"),
    ]
    return section(
        "unseen",
        "The part that training never saw",
        element(
            "div",
            [
                element(
                    "figure",
                    element("div", _image(picture, alt), class_="frame"),
                    element("figcaption", element("p", element("strong", title))),
                )
                for picture, title, alt in shown
            ],
            class_="three",
        ),
        element("ul", errors, class_="legend", aria_label="Legend of the errors"),
        note(f"{height:,} × {width:,} px, one pixel shown of every {step} × {step}."),
    )


def _comparison_section(result: DemoResult) -> Markup:
    evaluation = result.evaluation
    regression, majority = result.baselines["logistic_regression"], result.baselines["majority_class"]
    rows: list[list[Child]] = [
        [
            join(swatch(result.colors[name]), name),
            percent(_share(result, index)),
            element("span", _percent(evaluation["iou"][name]), class_="best"),
            _percent(regression["iou"][index]),
            _percent(majority["iou"][index]),
        ]
        for index, name in enumerate(result.classes)
    ]
    for title, key in (("Mean IoU", "miou"), ("Pixel accuracy", "pixel_accuracy")):
        mine = element("span", _percent(evaluation[key]), class_="best")
        rows.append([title, "", mine, _percent(regression[key]), _percent(majority[key])])
    headers = ["IoU by class", "Of the labels", NETWORK, "Logistic regression", "Commonest class"]
    bars = [
        Bar(NETWORK, evaluation["miou"] or 0.0, _percent(evaluation["miou"]), STEP_COLOR),
        Bar("Logistic regression", regression["miou"], _percent(regression["miou"]), "#8a8a8a"),
        Bar("Commonest class", majority["miou"], _percent(majority["miou"]), "#8a8a8a"),
    ]
    return section(
        "comparison",
        "Against simple rivals",
        bar_chart(bars, title="Mean IoU on the part held out"),
        table("Agreement with the labels of the part held out", headers, rows),
        note(
            "The logistic regression sees each pixel's four bands and nothing around it; it was fitted "
            f"to {result.baselines['fitted_pixels']:,} labelled pixels of the tiles that the network saw. "
            f"The commonest class of those tiles is {result.classes[majority['class']]}. "
            f"{evaluation['pixels']['labelled']:,} pixels were compared."
        ),
    )


def _time_section(result: DemoResult) -> Markup:
    bars = [
        Bar(name.capitalize(), record["seconds"], duration(record["seconds"]), STEP_COLOR)
        for name, record in result.steps.items()
    ]
    training = result.training
    interrupted = [name for name, record in result.steps.items() if record["runs"] > 1]
    pace = (
        f"{plural(training['steps'], 'optimiser step')} on {plural(training['samples'], 'crop')}, "
        f"{number(training['images_per_s'])} crops a second."
        if training.get("images_per_s")
        else None
    )
    return section(
        "time",
        "Where the time went",
        bar_chart(bars, title="Time of every step"),
        note(pace),
        note(f"Taken up again after an interruption: {', '.join(interrupted)}.") if interrupted else None,
    )


def _reports_section() -> Markup:
    reports = (
        (
            "mosaic.zarr.run/report.html",
            "The segmentation run",
            "plan and pace, confidence, areas, model card",
        ),
        ("model.run/report.html", "The training run", "curves, classes, best and worst tiles"),
        ("evaluation/report.html", "The evaluation", "areas with their errors, reliability, error map"),
    )
    return section(
        "reports",
        "Every run has its own report",
        element(
            "ul",
            [
                element("li", element("a", title, href=url), " ", element("span", about))
                for url, title, about in reports
            ],
            class_="links",
        ),
    )


def _open_section(result: DemoResult) -> Markup:
    mosaic, classes = (str(result.folder / name) for name in ("mosaic.zarr", "classes.tif"))
    reading = (
        "from pipeline.raster.mosaic import Mosaic\n"
        "from pipeline.raster.window import Window\n\n"
        f"mosaic = Mosaic.open({mosaic!r})\n"
        "mosaic.classes(Window(row=1024, col=1024, height=512, width=512))"
    )
    return section(
        "open",
        "Open the result",
        element("h3", "In the browser, to zoom and pan"),
        code(f"python jobs/view.py --mosaic {mosaic}", "Command for the viewer"),
        element("h3", "In QGIS or any GIS"),
        element("p", "A cloud-optimised GeoTIFF with colours, nodata and overviews:"),
        code(classes, "Path of the GeoTIFF"),
        element("h3", "In Python"),
        code(reading, "Python lines that read the mosaic"),
    )


def _legend(result: DemoResult) -> Markup:
    entries = [element("li", swatch(color), name) for name, color in result.colors.items()]
    entries.append(element("li", element("span", class_="swatch void", aria_hidden="true"), "no data"))
    return element("ul", entries, class_="legend", aria_label="Legend")


def _image(picture: Picture, alt: str) -> Markup:
    return element("img", src=picture.data_uri, alt=alt, width=picture.width, height=picture.height)


def _share(result: DemoResult, index: int) -> float:
    """Of the labels of the part held out."""
    rows = result.evaluation["confusion"]
    total = sum(sum(row) for row in rows)
    return sum(rows[index]) / total if total else 0.0


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else percent(share)
