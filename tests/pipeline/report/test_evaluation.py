"""The page of an evaluation: what it says is what was counted."""

import copy
import re

import numpy as np
import pytest

from pipeline.report.confusion_table import confusion_section
from pipeline.report.evaluation import render, write_evaluation_report
from pipeline.report.markup import join
from pipeline.report.pictures import Picture
from tests.pipeline.report.parsed import Page
from tests.pipeline.train.evaluated import NAMES, run, truth_of, write_labels, write_mosaic

PICTURE = Picture("data:image/png;base64,", 30, 20, 1)
COLORS = ("#2f8f6b", "#c8402f")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    place = tmp_path_factory.mktemp("page")
    contents = write_mosaic(place / "mosaic.zarr", 300, 420)
    write_labels(place / "truth.tif", truth_of(contents))
    return run(place / "mosaic.zarr", place / "truth.tif", place / "out"), place


@pytest.fixture(scope="module")
def page(evaluated):
    return Page((evaluated[1] / "out" / "report.html").read_text())


def test_figures_are_those_of_the_report(evaluated, page):
    report, _ = evaluated
    rows = {row[0]: row[1:] for row in page.rows("Agreement by class")}
    for name in NAMES:
        expected = [report[key][name] for key in ("iou", "dice", "precision", "recall", "boundary_iou")]
        assert rows[name] == [f"{100 * value:.1f} %" for value in expected]
    assert rows["Mean"][0] == f"{100 * report['miou']:.1f} %"


def test_rows_of_the_confusion_add_up(evaluated, page):
    report, _ = evaluated
    rows = page.rows("Where the pixels of each true class went")
    assert rows[0] == ["True class", *NAMES, "no prediction", "Pixels"]
    for row, counts in zip(rows[1:], report["confusion"], strict=True):
        assert row[-1] == f"{sum(counts):,}"
        shares = [float(cell.split()[0]) if cell != "·" else 0.0 for cell in row[1:-1]]
        assert sum(shares) == pytest.approx(100, abs=0.3)
        assert shares == pytest.approx([100 * count / sum(counts) for count in counts], abs=0.06)


def test_areas_carry_their_intervals(evaluated, page):
    report, _ = evaluated
    rows = page.rows("Area of every class")
    assert rows[0][1:3] == ["Mapped, km²", "Estimated, km²"]
    for row in rows[1:]:
        one = report["area"]["classes"][row[0]]
        assert float(row[1].replace(",", "")) == pytest.approx(one["mapped_area"] / 1e6, rel=1e-3)
        estimate = one["estimated_area"]
        assert float(row[4].replace(",", "")) == pytest.approx(
            estimate["cluster_interval_95"] / 1e6, rel=1e-3
        )


def test_every_filled_bin_is_a_bar(evaluated, page):
    report, _ = evaluated
    filled = sum(pixels > 0 for pixels in report["reliability"]["bin_pixels"])
    assert len(page.all("rect", class_="measured")) == filled
    for attributes, _ in page.all("rect", class_="measured"):
        top, height = float(attributes["y"]), float(attributes["height"])
        assert top + height == pytest.approx(360, abs=0.02), "bars stand on the axis"


def test_the_page_asks_nothing_of_any_network(evaluated):
    html = (evaluated[1] / "out" / "report.html").read_text()
    policies = [meta["content"] for meta, _ in Page(html).all("meta") if "http-equiv" in meta]
    assert not re.search(r"(src|href)=\"(?!#|data:)", html)
    assert ["default-src 'none'" in policy for policy in policies] == [True]


def test_what_others_wrote_is_text(evaluated):
    report = copy.deepcopy(evaluated[0])
    evil = "<script>alert(1)</script>"
    for key in ("iou", "dice", "precision", "recall", "boundary_iou"):
        report[key] = {evil if name == NAMES[1] else name: value for name, value in report[key].items()}
    for group in ("area", "reliability"):
        report[group]["classes"] = {
            evil if name == NAMES[1] else name: value for name, value in report[group]["classes"].items()
        }
    report["classes"] = [evil if name == NAMES[1] else name for name in report["classes"]]
    report["sources"][0]["name"] = evil
    report["colors"][0] = "red;background:url(x)"
    report["failures"] = [{"block": "r00000c00000", "reason": evil}]
    html = render(report, PICTURE, COLORS)
    assert "<script" not in html
    assert "url(x)" not in html
    assert evil in Page(html).text


def test_nothing_labelled_is_said_in_words(evaluated):
    report = copy.deepcopy(evaluated[0])
    for key in ("iou", "dice", "precision", "recall", "boundary_iou"):
        report[key] = dict.fromkeys(NAMES)
    for key in ("miou", "mean_dice", "mean_accuracy", "boundary_miou", "pixel_accuracy"):
        report[key] = None
    report["frequency_weighted_iou"] = None
    report["reliability"] |= {"pixels": 0, "ece": None}
    report["confusion"] = np.zeros((3, 4), int).tolist()
    report["sources"] = []
    text = Page(render(report, PICTURE, COLORS)).text
    assert text.count("No pixel has a label yet.") == 3


def test_many_classes_are_gathered_and_nothing_is_lost():
    random = np.random.default_rng(0)
    counts = random.integers(0, 1000, (40, 41))
    counts[7] *= 50
    names = [f"kind {index}" for index in range(40)]
    html = f"<html>{join(confusion_section(names, counts.tolist()))}</html>"
    rows = Page(html).rows("Where the pixels of each true class went")
    assert len(rows) == 21
    assert rows[-1][0] == "21 other classes"
    assert sum(int(row[-1].replace(",", "")) for row in rows[1:]) == counts.sum()
    mistakes = Page(html).rows("The largest mistakes")
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    assert [int(row[2].replace(",", "")) for row in mistakes[1:]] == sorted(wrong.ravel())[:-11:-1]
    assert {row[0] for row in mistakes[1:]} == {"kind 7"}


def test_the_page_can_be_written_again_from_what_is_stored(evaluated):
    folder = evaluated[1] / "out"
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    write_evaluation_report(str(folder))
    assert (folder / "report.html").read_bytes() == before
