"""The page in a real browser; Debian's chromium. Skipped, and said so, where there is none."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from pyproj import CRS

from pipeline.report.page import write_report
from tests.pipeline.report.fabricated import small_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: the page is NOT seen rendered"
)

MEASURE = """<!doctype html><iframe src="{page}" style="width:360px;height:900px;border:0"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const sizes = [...page.images].map(image => image.naturalWidth);
  document.title = `${{page.documentElement.scrollWidth}} ${{sizes.join(",")}}`;
}}</script>"""


def browse(tmp_path, address, *options):
    """Load a page; gives its DOM and what the browser said of it."""
    profile = tmp_path / "profile"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--allow-file-access-from-files", "--enable-logging=stderr", "--hide-scrollbars",
        f"--user-data-dir={profile}", *options, address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    names = ("<script>console.error('injected')</script>", "forest " * 12, "field", "town")
    transform = Affine(10.0, 0, 500_000, 0, -10.0, 5_200_000)
    output = small_run(folder, names=names, crs_wkt=CRS(32633).to_wkt(), transform=transform)
    write_report(output)
    return Path(f"{output}.run/report.html")


def test_the_browser_finds_nothing_to_complain_about(tmp_path, page):
    dom, complaints = browse(tmp_path, page.as_uri(), "--dump-dom")
    assert "land.zarr" in dom
    assert complaints == []


def test_the_browser_would_have_complained(tmp_path, page):
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(page.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))
    _, complaints = browse(tmp_path, spoilt.as_uri(), "--dump-dom")
    assert any("Content Security Policy" in complaint for complaint in complaints)


def test_a_phone_needs_no_sideways_scrolling_and_pictures_decode(tmp_path, page):
    frame = tmp_path / "phone.html"
    frame.write_text(MEASURE.format(page=page.as_uri()))
    dom, _ = browse(tmp_path, frame.as_uri(), "--dump-dom")
    title = re.search("<title>(.*?)</title>", dom)[1]
    assert title == "360 60,60"


@pytest.mark.parametrize(("scheme", "dark"), [("0", True), ("1", False)])
def test_the_page_follows_the_readers_light_and_dark(tmp_path, page, scheme, dark):
    shot = tmp_path / "shot.png"
    options = (
        f"--screenshot={shot}",
        "--window-size=800,600",
        f"--blink-settings=preferredColorScheme={scheme}",
    )
    browse(tmp_path, page.as_uri(), *options)
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert (np.median(pixels) < 60) == dark
    assert np.ptp(pixels) > 150  # something is drawn on it
