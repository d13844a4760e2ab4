"""The demo's page: every figure beside its rivals, nothing injected, nothing fetched."""

from dataclasses import replace
from pathlib import Path

from pipeline.demo.page import DemoResult, render
from pipeline.demo.pictures import DemoPictures
from pipeline.report.pictures import Picture

PICTURE = Picture("data:image/png;base64,AAAA", 10, 20, 3)
RESULT = DemoResult(
    folder=Path("a <b>"),
    side=2048,
    evaluation={
        "classes": ["water", "<i>ice</i>"],
        "colors": ["#0000ff", "red;}"],
        "confusion": [[60, 20, 0], [0, 20, 0]],
        "miou": 0.625,
        "pixel_accuracy": 0.8,
        "iou": {"water": 0.75, "<i>ice</i>": None},
        "pixels": {"labelled": 100},
    },
    baselines={
        "logistic_regression": {"miou": 0.333, "pixel_accuracy": 0.5, "iou": [0.2, 0.466]},
        "majority_class": {"miou": 0.111, "pixel_accuracy": 0.4, "iou": [0.222, 0.0], "class": 0},
        "fitted_pixels": 1234,
    },
    training={"seconds": 61.0, "steps": 300, "samples": 2400, "images_per_s": 39.3},
    steps={"training": {"title": "it learns", "seconds": 61.0, "runs": 2}},
    pictures=DemoPictures(PICTURE, PICTURE, PICTURE, PICTURE, PICTURE, 0.4, 0.6, (2048, 800)),
)


def test_the_page_shows_every_figure_beside_its_rivals():
    page = render(RESULT).replace("\u202f", " ")
    row = page[page.index("<tbody>") : page.index("</tbody>")]
    for figure in ("80.0 %", "75.0 %", "20.0 %", "22.2 %", "46.6 %", "62.5 %", "33.3 %", "11.1 %"):
        assert figure in row
    assert "–" in row  # an IoU that nothing was counted for is not 0
    assert "left:40.000%" in page
    assert "1,234 labelled pixels" in page
    assert "Taken up again after an interruption: training." in page


def test_the_page_cannot_be_injected_into_and_asks_nothing_of_any_network():
    page = render(replace(RESULT, steps={"<b>s</b>": {"title": "", "seconds": 1.0, "runs": 1}}))
    assert "<i>ice" not in page
    assert "red;}" not in page
    assert "<b>s" not in page
    assert "http" not in page.replace("http-equiv", "")
