import base64
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from pyproj import CRS

from pipeline.errors import StorageError
from pipeline.report.page import write_report
from tests.pipeline.report.fabricated import block_name, small_run
from tests.pipeline.report.parsed import Page

UTM = {"crs_wkt": CRS(32633).to_wkt(), "transform": Affine(10.0, 0, 500_000, 0, -10.0, 5_200_000)}
HOSTILE = (
    "</title><script>alert(1)</script>",
    '" onload="alert(2)',
    "<img src=x onerror=alert(3)>",
    "&amp; ' town",
)


def html_of(output, **options):
    write_report(output, **options)
    return Path(f"{output}.run/report.html").read_text("utf-8")


def page_of(output, **options):
    return Page(html_of(output, **options))


def decoded(data_uri):
    data = base64.b64decode(data_uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(BytesIO(data)).convert("RGBA"))


def write_source(path, samples_CHW, **profile):
    bands, height, width = samples_CHW.shape
    options = {
        "driver": "GTiff",
        "count": bands,
        "height": height,
        "width": width,
        "dtype": samples_CHW.dtype,
    }
    with rasterio.open(path, "w", **options, **profile) as target:
        target.write(samples_CHW)
    return str(path)


def test_the_page_asks_nothing_of_any_network_and_runs_nothing(tmp_path):
    source = write_source(tmp_path / "scene.tif", np.full((3, 40, 60), 9, np.uint8))
    page = page_of(small_run(tmp_path, source=source))
    loads = [
        attrs[name] for _, attrs, _ in page.elements for name in ("src", "srcset", "data") if name in attrs
    ]
    assert len(loads) == 3
    assert all(address.startswith("data:image/png;base64,") for address in loads)
    assert not [tag for tag, _, _ in page.elements if tag in ("script", "link", "iframe", "object", "base")]
    assert not [name for _, attrs, _ in page.elements for name in attrs if name.startswith("on")]
    style = page.all("style")[0][1]
    assert "@import" not in style
    assert "url(" not in style
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][0]["content"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert all(attrs["href"].startswith("#") for attrs, _ in page.all("a"))


def test_the_page_can_be_read_without_seeing_it(tmp_path):
    page = page_of(small_run(tmp_path, **UTM))
    assert page.all("html")[0][0]["lang"] == "en"
    assert [text for _, text in page.all("h1")] == ["land.zarr"]
    assert page.hurdles() == []
    assert len([attrs for attrs, _ in page.all("svg") if "chart" in attrs.get("class", "")]) == 4


def test_names_that_users_gave_stay_text(tmp_path):
    page = page_of(small_run(tmp_path, names=HOSTILE, attributes={"software": HOSTILE[0]}))
    for name in HOSTILE:
        assert name in page.text
    assert not page.all("script")
    assert len(page.all("title")) > 1  # those of charts
    assert page.all("title")[0][1] == "land.zarr: complete"
    assert not [name for _, attrs, _ in page.elements for name in attrs if name.startswith("on")]


def test_areas_are_those_of_the_pixels(tmp_path):
    page = page_of(small_run(tmp_path, **UTM))
    # 15 columns × 36 rows of 100 m² each: 5.4 ha of every class.
    rows = page.rows("Area of every class")
    assert rows[0] == ["Class", "ha", "Pixels", "Share"]
    assert sorted(rows[1:]) == [
        [name, "5.400", "540", "25.0 %"] for name in ("field", "forest", "town", "water")
    ]
    legend = page.all("ul", class_="legend")[0][1].replace("\u202f", " ")
    assert "no data10.0 % of the mosaic" in legend
    assert "100 m" in page.text.replace("\u202f", " ")  # the scale bar: at most 0.3 of 600 m


def test_pixels_of_unknown_size_are_counted_not_measured(tmp_path):
    page = page_of(small_run(tmp_path))
    assert page.rows("Area of every class")[0] == ["Class", "Pixels", "Share"]
    assert "does not say how large its pixels are" in page.text


def test_an_incomplete_run_says_so_and_names_every_fault(tmp_path):
    lost = {"block": block_name(0, 1), "reason": "BlockError: <cannot> read", "traceback": "Traceback <x>"}
    output = small_run(
        tmp_path,
        blocks=3,
        status="incomplete",
        failed=[lost | {"attempts": 3}],
        failures=[{"block": lost["block"], "reason": lost["reason"]}],
        retries=[{"block": block_name(0, 0), "reason": "the node has died", "counted": False}],
        audit={"objects": 2, "faults": ["classes/c/0/0 is missing"]},
    )
    page = page_of(output)
    assert [text for _, text in page.all("strong", class_="badge incomplete")] == ["Incomplete"]
    assert next(text for _, text in page.all("a", href="#faults")) == (
        "1 block given up; 1 fault found by the audit"
    )
    entries = [text for _, text in page.all("li") if "block" in text or "died" in text or "missing" in text]
    assert "r00000c00001 after 3 attempts: BlockError: <cannot> readTracebackTraceback <x>" in page.text
    assert "r00000c00000: the node has died (worker lost, not counted as an attempt)" in entries
    assert "classes/c/0/0 is missing" in entries
    assert ["Blocks", "3", "1", "0.333"] in page.rows("The plan beside what was measured")


def test_a_run_in_which_no_block_ended_has_a_page_too(tmp_path):
    output = small_run(tmp_path, status="interrupted", seam=None)
    Path(f"{output}.run/blocks/r00000c00000.json").unlink()
    page = page_of(output)
    assert "No block is finished yet." in page.text
    assert "No pixel has a class yet." in page.text
    assert "nothing to compare" in page.text


def test_thousands_of_faults_do_not_swamp_the_page(tmp_path):
    faults = [f"object {index} is missing" for index in range(5000)]
    page = page_of(small_run(tmp_path, status="incomplete", audit={"objects": 1, "faults": faults}))
    assert "object 99 is missing" in page.text
    assert "object 100 is missing" not in page.text
    assert "4,900 more are in report.json" in page.text


def test_memory_above_the_projection_is_not_passed_over(tmp_path):
    output = small_run(tmp_path)
    path = Path(f"{output}.run/blocks/r00000c00000.json")
    record = json.loads(path.read_text()) | {"peak_rss_bytes": 3 << 30}
    path.write_text(json.dumps(record))
    page = page_of(output)
    assert ["Peak memory of a worker", "2.00 GiB", "3.00 GiB", "1.50"] in page.rows(
        "The plan beside what was measured"
    )
    assert "More memory was taken than projected" in page.text


def test_a_source_that_is_gone_is_said_to_be(tmp_path):
    html = html_of(small_run(tmp_path))
    assert "could not be read again" in html
    assert len(Page(html).all("img")) == 2


def test_the_signature_of_a_source_is_kept_secret(tmp_path, s3_bucket):
    s3_bucket.put_public("note.txt", b"this is no raster " * 100)
    signed = f"{s3_bucket.endpoint}/{s3_bucket.name}/note.txt?token=topsecret"
    html = html_of(small_run(tmp_path), source_url=signed)
    assert "note.txt" in html
    assert "not recognized" in html
    assert "topsecret" not in html


def test_the_source_is_shown_where_the_mosaic_lies(tmp_path):
    samples = np.zeros((3, 100, 100), np.uint8)
    samples[:, 20:60, 30:90] = 40  # under the mosaic
    samples[0, 20:60, 60:90] = 240  # its right half is red
    samples[:, 20, 30] = 0
    source = write_source(tmp_path / "scene.tif", samples, nodata=0)
    output = small_run(tmp_path, source=source, attributes={"source_origin": [20, 30]})
    shown = decoded(page_of(output).all("img")[1][0]["src"])
    assert shown.shape == (40, 60, 4)
    assert shown[0, 0, 3] == 0
    assert (shown[1:, :, 3] == 255).all()
    assert (shown[5, 35:, 0] > shown[5, 35:, 1] + 200).all()
    assert np.ptp(shown[5, 1:25, :3]) == 0


def test_bands_called_by_colour_are_shown_as_these(tmp_path):
    samples = np.zeros((3, 40, 60), np.uint16)
    samples[0, :, :30], samples[2, :, 30:] = 4000, 4000  # B02 at the left, B04 at the right
    source = write_source(tmp_path / "scene.tif", samples)
    with rasterio.open(source, "r+") as target:
        target.descriptions = ("B02", "B03", "B04")
    shown = decoded(page_of(small_run(tmp_path, source=source)).all("img")[1][0]["src"])
    assert shown[0, 0, :3].tolist() == [0, 0, 255]
    assert shown[0, 59, :3].tolist() == [255, 0, 0]


def test_the_same_run_gives_the_same_page(tmp_path):
    output = small_run(tmp_path, **UTM)
    assert html_of(output) == html_of(output)


def test_a_run_without_report_is_refused_with_what_to_do(tmp_path):
    output = small_run(tmp_path)
    Path(f"{output}.run/report.json").unlink()
    with pytest.raises(StorageError, match=r"no report\.json in .*land\.zarr\.run; run it again"):
        write_report(output)


def test_colours_of_text_can_be_read_in_light_and_dark(tmp_path):
    style = page_of(small_run(tmp_path)).all("style")[0][1]
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    for theme in (light, dark):
        colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", theme))
        for ink in ("ink", "muted", "accent", "good", "warn", "bad"):
            for ground in ("paper", "raised"):
                assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)


def contrast(first, second):
    """By WCAG 2.2."""

    def luminance(color):
        channels = np.array(list(bytes.fromhex(color[1:]))) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
