"""The page of a training run: complete, safe, readable, and true to what the run's folder says."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.report.curves import HEIGHT_PX, POINTS, UNITS, Curve, Scale, line_chart
from pipeline.report.training import write_training_report
from pipeline.train.run import train
from tests.pipeline.report.parsed import Page
from tests.pipeline.train import small_tiles
from tests.pipeline.train.fabricated_training import CONFUSION, NAMES, figures, write_training

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = ("</title><script>alert(1)</script>", '" onload="alert(2)', "<img src=x onerror=alert(3)>")


def page_of(run):
    write_training_report(run)
    return Page(Path(run, "report.html").read_text("utf-8"))


def rewrite(run, key, change):
    path = Path(run, key)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_the_page_asks_nothing_of_any_network_and_runs_nothing(tmp_path):
    page = page_of(write_training(tmp_path))
    loads = [attrs["src"] for attrs, _ in page.all("img")]
    assert len(loads) == 12  # four tiles: image, truth, prediction
    assert all(address.startswith("data:image/png;base64,") for address in loads)
    assert not [tag for tag, _, _ in page.elements if tag in ("script", "link", "iframe", "object", "base")]
    assert not [name for _, attrs, _ in page.elements for name in attrs if name.startswith("on")]
    assert "url(" not in page.all("style")[0][1]
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][0]["content"]
    assert "default-src 'none'" in policy
    assert all(attrs["href"].startswith("#") for attrs, _ in page.all("a"))


def test_the_page_can_be_read_without_seeing_it(tmp_path):
    page = page_of(write_training(tmp_path))
    assert page.hurdles() == []
    charts = [attrs for attrs, _ in page.all("svg") if "chart" in attrs.get("class", "")]
    assert len(charts) == 4  # loss, rate, IoU, time


def test_names_that_users_gave_stay_text(tmp_path):
    page = page_of(write_training(tmp_path, names=HOSTILE))
    for name in HOSTILE:
        assert name in page.text
    assert not page.all("script")
    assert not [name for _, attrs, _ in page.elements for name in attrs if name.startswith("on")]


def test_a_colour_that_is_none_cannot_smuggle_style(tmp_path):
    page = page_of(write_training(tmp_path, colors=("#000000", "red;background:url(//evil)", "#2f6f9f")))
    assert not [attrs for _, attrs, _ in page.elements if "evil" in str(attrs)]


def test_figures_are_those_of_the_confusion_matrix(tmp_path):
    page = page_of(write_training(tmp_path))
    rows = page.rows("Every class, on the validation split")
    assert rows[0] == ["Class", "IoU", "Dice", "Boundary IoU", "Found", "Share of the labels"]
    # Background: 800 of 1000 true pixels hit, 830 predicted: 800 / (1000 + 830 − 800).
    assert rows[1] == ["background", "77.7 %", "87.4 %", "38.8 %", "80.0 %", "50.0 %"]
    assert rows[3] == ["water", "76.9 %", "87.0 %", "38.5 %", "100.0 %", "25.0 %"]
    assert page.rows("Means over the classes")[1] == ["validation", "79.4 %", "88.5 %", "88.0 %", "2,000"]
    text = page.text.replace("\u202f", " ")
    assert "3 min 20 s" in text


def test_a_test_split_has_its_own_row_and_alone_its_own_caption(tmp_path):
    test = figures(confusion=[[50, 0, 0, 0], [0, 40, 10, 0], [0, 0, 100, 0]])
    page = page_of(write_training(tmp_path, validation={"val": figures(), "test": test}))
    assert [row[0] for row in page.rows("Means over the classes")] == ["Split", "validation", "test"]
    assert page.rows("Means over the classes")[2][3:] == ["95.0 %", "200"]
    page = page_of(write_training(tmp_path, validation={"test": test}))
    assert page.rows("Every class, on the test split")


def test_the_best_validation_is_named_and_every_one_is_listed(tmp_path):
    run = write_training(tmp_path)
    lines = Path(run, "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    best = next(one for one in records if one["kind"] == "validation" and one["step"] == 100)
    best["miou"] = 0.9
    Path(run, "log.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records) + '{"kind": "ste')
    page = page_of(run)
    assert "The best mean IoU, 90.0 %, was reached at step 100." in page.text.replace("\u202f", " ")
    rows = page.rows("Validations between steps")
    assert [row[0] for row in rows] == ["Step", "50", "100", "150", "200"]
    assert rows[0][3:] == list(NAMES)


def test_where_the_time_went_and_whether_loading_kept_up(tmp_path):
    run = write_training(tmp_path)
    page = page_of(run)
    rows = page.rows("Parts of a step, added up over rank 0's steps")
    assert ["backward", "gradients", "1 min 50 s", "55.0 %"] in rows
    assert sum(float(row[3].removesuffix(" %")) for row in rows[1:]) == pytest.approx(100)
    assert "Crops are loaded 4.8 times as fast as they are used." in page.text
    log = Path(run, "log.jsonl")
    log.write_text(log.read_text().replace('"loading_images_per_s": 60.0', '"loading_images_per_s": 6.0'))
    assert "raise compute.loaders" in page_of(run).text


def test_the_tiles_are_shown_with_their_place(tmp_path):
    page = page_of(write_training(tmp_path))
    titles = [text for _, text in page.all("h4")]
    assert [title.split("mean")[0] for title in titles] == ["worst_0", "worst_1", "best_0", "best_1"]
    assert "shown: 48 × 48 px from row 0, column 16" in titles[0]
    assert "mean IoU –" in titles[2]  # nothing of any class was counted
    assert [text for _, text in page.all("figcaption")][:3] == ["imagery", "truth", "prediction"]


def test_what_was_left_out_is_told(tmp_path):
    page = page_of(write_training(tmp_path))
    assert "x1: label 9 is no <class>" in page.text
    many = [{"id": f"bad{index}", "reason": "unreadable"} for index in range(80)]
    page = page_of(write_training(tmp_path, bad_tiles=many))
    assert "30 tiles more are in report.json." in page.text


def test_a_run_without_validation_or_steps_has_a_page_too(tmp_path):
    empty = dict.fromkeys(("miou", "iou", "mean_dice", "dice", "pixel_accuracy", "confusion", "boundary_iou"))
    run = write_training(
        tmp_path, steps=0, splits={"train": 3}, images_per_s=None, time_shares=None, bad_tiles=[]
    )
    rewrite(run, "report.json", lambda report: report | empty)
    shutil.rmtree(Path(run, "validation"))
    page = page_of(run)
    for said in (
        "Nothing was validated",
        "No step has been taken",
        "no pictures of tiles",
        "how well it does is not known",
    ):
        assert said in page.text


def test_a_class_that_is_nowhere_has_no_figure(tmp_path):
    run = write_training(tmp_path)

    def forget(report):
        report["iou"]["water"] = report["dice"]["water"] = None
        return report

    rewrite(run, "report.json", forget)
    rows = page_of(run).rows("Every class, on the validation split")
    assert rows[3][:3] == ["water", "–", "–"]


def test_a_hundred_classes_do_not_swamp_the_page(tmp_path):
    names = tuple(f"class {index}" for index in range(100))
    confusion = [[100 + row if row == col else 1 for col in range(100)] + [0] for row in range(100)]
    page = page_of(write_training(tmp_path, names=names, colors=["#336699"] * 100, confusion=confusion))
    assert len(page.rows("Validations between steps")[0]) <= 13
    assert "The 90 classes with the highest IoU are left out." in page.text
    assert len(page.rows("Every class, on the validation split")) == 101


def test_the_same_run_gives_the_same_page(tmp_path):
    run = write_training(tmp_path)
    write_training_report(run)
    first = Path(run, "report.html").read_bytes()
    write_training_report(run)
    assert Path(run, "report.html").read_bytes() == first


def test_a_run_that_has_not_ended_is_refused_with_what_to_do(tmp_path):
    run = write_training(tmp_path)
    Path(run, "report.json").unlink()
    with pytest.raises(StorageError, match=r"no report\.json in .*land-model\.run; run it again"):
        write_training_report(run)


def points_of(page, css_class):
    paths = [attrs["d"] for attrs, _ in page.all("path", class_=css_class)]
    return [
        [tuple(map(float, pair.split(","))) for pair in re.findall(r"[\d.]+,[\d.]+", path)] for path in paths
    ]


def test_a_curve_goes_through_its_values():
    ys = [0.0, 1.0, 0.5]
    page = Page(
        line_chart([Curve("c", [0, 50, 100], ys)], title="t", say=str, y_scale=Scale(0.0, 1.0, (0.0, 1.0)))
    )
    assert points_of(page, "line") == [[(0, UNITS), (UNITS / 2, 0), (UNITS, UNITS / 2)]]
    assert [float(attrs["y1"]) for attrs, _ in page.all("line", class_="grid")] == [HEIGHT_PX, 0]


def test_a_curve_breaks_where_nothing_is_known_and_a_lone_value_is_a_dot():
    ys = [1.0, 2.0, math.nan, 3.0]
    page = Page(line_chart([Curve("c", [0, 1, 2, 3], ys)], title="t", say=str))
    path = page.all("path", class_="line")[0][0]["d"]
    assert path.count("M") == 2
    first, dot = path.split(" M")
    assert len(re.findall(",", first)) == 2
    assert len(set(re.findall(r"[\d.]+,[\d.]+", dot))) == 1


def test_no_spike_is_lost_in_a_long_curve_and_no_page_grows():
    ys = [1.0] * 100_000
    ys[54_321] = 50.0
    curve = Curve("c", range(100_000), ys, has_band=True)
    page = Page(line_chart([curve], title="t", say=str, y_scale=Scale(0.0, 50.0)))
    assert len(points_of(page, "line")[0]) == POINTS
    assert min(y for _, y in points_of(page, "band")[0]) == 0  # the scale's upper edge
    assert min(y for _, y in points_of(page, "line")[0]) > 0.9 * UNITS


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0], [], [1e-9, 3e-9], [-3.0, 1e6], [math.nan]])
def test_a_scale_has_round_ticks_within_itself_whatever_the_values(values):
    scale = Scale.over(values)
    assert scale.low < scale.high
    assert 2 <= len(scale.ticks) <= 8
    slack = 1e-9 * (scale.high - scale.low)
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in scale.ticks)
    assert all(scale.low <= value <= scale.high for value in values if math.isfinite(value))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is NOT seen rendered")
def test_a_phone_needs_no_sideways_scrolling(tmp_path):
    run = write_training(tmp_path, names=("<b>background</b>", "forest " * 8, "water"))
    write_training_report(run)
    frame = tmp_path / "phone.html"
    frame.write_text(
        f'<!doctype html><iframe src="{Path(run, "report.html").as_uri()}" style="width:360px;height:900px">'
        "</iframe><script>onload = () => { const page = document.querySelector('iframe').contentDocument;"
        "document.title = `${page.documentElement.scrollWidth}`; }</script>"
    )
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        "--enable-logging=stderr", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert re.search("<title>(.*?)</title>", done.stdout)[1] == "360"
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_confusion_matrix_is_shown(tmp_path):
    rows = page_of(write_training(tmp_path)).rows("Where the pixels of each true class went")
    assert rows[1][:4] == ["background", "80.0 %", "5.0 %", "15.0 %"]
    assert rows[1][-1] == f"{sum(CONFUSION[0]):,}"


def test_a_real_run_is_shown_as_it_went(tmp_path):
    document = small_tiles.settings(
        small_tiles.write_tiles(tmp_path / "tiles"),
        tmp_path / "model",
        train={"max_steps": 6, "validate_steps": 3},
    )
    report = train(small_tiles.config_of(document))
    job = small_tiles.job_of(document)
    page = Page(Path(f"{job.output}.run/report.html").read_text("utf-8"))
    assert [row[0] for row in page.rows("Validations between steps")] == ["Step", "3", "6"]
    rows = page.rows("Every class, on the validation split")
    told = [f"{100 * report['iou'][name]:.1f} %" for name in small_tiles.CLASSES]
    assert [row[1] for row in rows[1:]] == told
    assert len(page.all("img")) == 3 * len(job.tiles.of("val"))
    parts = page.rows("Parts of a step, added up over rank 0's steps")[1:]
    shares = [float(row[3].removesuffix(" %").removeprefix("< ")) for row in parts]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert report["sha256"] in page.text
